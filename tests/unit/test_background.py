"""Work that can not be stopped keeps its directory locked."""

import threading
from pathlib import Path

import pytest

from rdd import storage
from rdd.on_ray.background import Background


def test_a_directory_stays_locked_until_the_work_in_it_has_ended(tmp_path: Path) -> None:
    output, may_end = str(tmp_path / "out"), threading.Event()
    with storage.owned_directory(output, {}):
        background = Background(lambda: may_end.wait(30))
    with pytest.raises(RuntimeError, match="another process is working on"), storage.owned_directory(output, {}):
        pass
    may_end.set()
    while background.running():
        pass
    with storage.owned_directory(output, {}):
        pass


def test_work_that_has_ended_leaves_the_lock_to_its_owner(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with storage.owned_directory(output, {}):
        background = Background(lambda: None)
        while background.running():
            pass
        with pytest.raises(RuntimeError, match="another process is working on"), storage.owned_directory(output, {}):
            pass
    with storage.owned_directory(output, {}):
        pass
