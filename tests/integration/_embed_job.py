"""Embeddings as a person starts them, in a process of their own, and what they have written."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rdd import storage
from rdd.embedding.resume import WORK


def settings(records: str, output: str, model: str, **more: Any) -> dict[str, Any]:
    """Settings of an embedding of D3's schema, whose folder also holds the real images."""
    return {
        "records.path": f"{records}/records",
        "records.real_images": f"{records}/real_images",
        "clip.model": model,
        "clip.pretrained": "random",
        "embed.output": output,
        "embed.threads_per_worker": 1,
        "cluster.address": "local",
        "cluster.num_cpus": 2,
        "tracking.enabled": "false",
        **more,
    }


def words(values: Mapping[str, Any]) -> list[str]:
    """The command."""
    return [sys.executable, "jobs/embed.py", *(word for name, value in values.items() for word in (f"--{name}", str(value)))]


@contextlib.contextmanager
def started(values: Mapping[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs; what it says is read at its end, and what is left of it then is killed."""
    with subprocess.Popen(words(values), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def summary_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a command that must succeed says at its end."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    summary: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert summary["records_in"] == summary["records_written"] + summary["records_quarantined"]
    return summary


def run(values: Mapping[str, Any]) -> dict[str, Any]:
    """Run the command to its good end."""
    with started(values) as process:
        return summary_of(process)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 240) -> None:
    """Wait for something that a running command brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "nothing of it in time"
        time.sleep(0.02)


def commits(output: Path) -> int:
    """Commits in a local output so far."""
    return len([path for path in output.glob(f"{WORK}/checkpoint/*.parquet") if ".pending." not in path.name])


def rows(output: str) -> list[dict[str, Any]]:
    """All that an embedding has written, by key, but for the place of its records; every row once."""
    files = [file.path for file in storage.list_files(f"{output}/data", suffix=".parquet")]
    found = [row for file in files for row in storage.read_table(file, way_out="").to_pylist()]
    assert len({row["key"] for row in found}) == len(found)
    return sorted(({**row, "source": None} for row in found), key=lambda row: row["key"])
