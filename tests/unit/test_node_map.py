"""The one memory map of the features that a node's processes share."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from _features import D, feature_rows, write_features

from rdd.features import FeatureTable, node_map, old_maps
from rdd.features.feature_set import FeatureSet
from rdd.features.node_map import _exclusive
from rdd.features.old_maps import delete_old_maps


def everything(table: FeatureTable) -> torch.Tensor:
    return table.gather(torch.arange(len(table)), "official").features


def load_shared(path: str, maps: str, queue: "multiprocessing.Queue") -> None:
    table = FeatureTable.load(path, shared=maps)
    queue.put((len(table), sum(float(matrix.float().sum()) for matrix in table.matrices.values())))


def test_processes_of_a_node_share_one_map(tmp_path: Path) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(60)), tmp_path / "maps"
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=load_shared, args=(path, str(maps), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert results[0] == results[1]
    assert len([entry for entry in maps.iterdir() if entry.is_dir()]) == 1


def test_features_embedded_anew_at_the_same_place_get_a_map_of_their_own(tmp_path: Path) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), str(tmp_path / "maps")
    assert len(FeatureTable.load(path, shared=maps)) == len(FeatureTable.load(path))
    shutil.rmtree(tmp_path / "features")
    fewer = [
        row | {"generators": row["generators"][:1], "projected": row["projected"][: 2 * D]}
        for row in feature_rows(20, rejected=0)
    ]
    write_features(tmp_path / "features", fewer)
    assert len(FeatureTable.load(path, shared=maps)) == len(FeatureTable.load(path)) < 40


def test_a_map_half_written_is_written_again(tmp_path: Path) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    expected = FeatureTable.load(path, shared=str(maps)).gather(torch.arange(9), "shared").features
    folder = next(entry for entry in maps.iterdir() if entry.is_dir())
    (folder / "projected.npy").unlink()
    (folder / "projected.npy.partial").write_bytes(b"torn")
    (folder / "text.npy.partial").write_bytes(b"torn")
    again = FeatureTable.load(path, shared=str(maps))
    assert torch.equal(expected, again.gather(torch.arange(9), "shared").features)
    assert not list(folder.glob("*.partial"))


def map_in(maps: Path) -> Path:
    return next(entry for entry in maps.iterdir() if entry.is_dir())


def test_bytes_of_a_map_that_changed_under_one_size_are_seen(tmp_path: Path, caplog) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    expected = everything(FeatureTable.load(path, shared=str(maps)))
    place = map_in(maps) / "projected.npy"
    before = place.stat()
    with open(place, "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\0\0\0")
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert torch.equal(everything(FeatureTable.load(path, shared=str(maps))), expected)
    assert "is not what was written; writing it again" in caplog.text


def test_features_that_were_changed_in_their_place_are_mapped_anew(tmp_path: Path) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    file = tmp_path / "features" / "data" / "00000.parquet"
    table = pq.read_table(file)
    pq.write_table(table, file, compression="none")
    before = everything(FeatureTable.load(path, shared=str(maps)))
    column = table.column_names.index("projected")
    halves = [None if cell is None else (np.frombuffer(cell, "<f2") / 2).tobytes() for cell in table.column(column).to_pylist()]
    size = file.stat().st_size
    pq.write_table(table.set_column(column, "projected", pa.array(halves, pa.binary())), file, compression="none")
    assert file.stat().st_size == size
    after = everything(FeatureTable.load(path, shared=str(maps)))
    assert not torch.equal(after, before)
    assert torch.equal(after, everything(FeatureTable.load(path)))


@pytest.mark.parametrize("name", ["projected.npy", "text.npy", "images.arrow", "records.arrow", "checksums.json"])
@pytest.mark.parametrize("damage", ["gone", "empty"])
def test_a_damaged_map_is_written_again(tmp_path: Path, name: str, damage: str) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    expected = everything(FeatureTable.load(path, shared=str(maps)))
    place = map_in(maps) / name
    place.unlink()
    if damage == "empty":
        place.touch()
    assert torch.equal(everything(FeatureTable.load(path, shared=str(maps))), expected)


def test_a_map_is_verified_once_after_the_machine_has_started(tmp_path: Path, monkeypatch) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    FeatureTable.load(path, shared=str(maps))
    checked: list[str] = []
    real = node_map.sha256_file_in_parts
    monkeypatch.setattr(node_map, "sha256_file_in_parts", lambda place: checked.append(place) or real(place))
    FeatureTable.load(path, shared=str(maps))
    assert not checked
    noted = json.loads((map_in(maps) / "checksums.json").read_text())
    for file in noted.values():
        file["seen"][0] = "an earlier start"
    (map_in(maps) / "checksums.json").write_text(json.dumps(noted))
    for _ in range(2):
        FeatureTable.load(path, shared=str(maps))
    assert len(checked) == 4  # each of the four files, once


def test_a_folder_of_maps_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    maps.mkdir()
    maps.chmod(0o777)
    with pytest.raises(RuntimeError, match=r"maps must be a folder of yours that only you may write to, got mode drwxrwxrwx"):
        FeatureTable.load(path, shared=str(maps))
    maps.rmdir()
    (tmp_path / "elsewhere").mkdir()
    maps.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RuntimeError, match="must be a folder of yours"):
        FeatureTable.load(path, shared=str(maps))


def test_a_map_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    FeatureTable.load(path, shared=str(maps))
    monkeypatch.setattr(node_map.os, "getuid", lambda: 12345)
    with pytest.raises(RuntimeError, match=f"of user {maps.stat().st_uid}: features in it may be another's"):
        FeatureTable.load(path, shared=str(maps))


def test_the_folder_of_maps_is_a_path_as_people_write_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RDD_MAP_DIR", "~/maps")
    assert node_map.map_folder() == f"{tmp_path}/maps/rdd-features-{os.getuid()}"
    (tmp_path / "maps").touch()
    path = write_features(tmp_path / "features", feature_rows(20))
    with pytest.raises(RuntimeError, match=r"can not be made for memory maps: .*; set RDD_MAP_DIR to a disk"):
        FeatureTable.load(path, shared=node_map.map_folder())


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    path, maps = write_features(tmp_path / "features", feature_rows(20)), tmp_path / "maps"
    FeatureTable.load(path, shared=str(maps))
    (lock,) = maps.glob("*.lock")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    lock.unlink()
    lock.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        FeatureTable.load(path, shared=str(maps))
    assert precious.read_text() == "precious"


def test_maps_that_were_not_used_for_days_are_deleted_and_others_stay(tmp_path: Path) -> None:
    paths = [write_features(tmp_path / name, feature_rows(number)) for name, number in (("old", 10), ("new", 20))]
    maps = tmp_path / "maps"
    assert delete_old_maps(str(maps), days=1) == []
    FeatureTable.load(paths[0], shared=str(maps))
    (lock,) = maps.glob("*.lock")
    old = map_in(maps)
    FeatureTable.load(paths[1], shared=str(maps))
    two_days_ago = time.time() - 2 * 86_400
    os.utime(lock, (two_days_ago, two_days_ago))
    with open(lock) as held:  # a process is opening it just now
        fcntl.flock(held, fcntl.LOCK_EX)
        assert delete_old_maps(str(maps), days=1) == []
    assert delete_old_maps(str(maps), days=1) == [str(old)]
    assert [entry for entry in maps.iterdir() if entry.is_dir()] != []
    assert not old.exists()
    assert len(FeatureTable.load(paths[0], shared=str(maps))) > 0


def test_the_command_that_deletes_maps_says_what_is_wrong(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("RDD_MAP_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["old_maps", "--days", "0"])
    Path(node_map.map_folder()).mkdir()
    Path(node_map.map_folder()).chmod(0o777)
    assert old_maps.main() == 1
    assert capsys.readouterr().err.startswith(f"error: {node_map.map_folder()} must be a folder of yours")
    (tmp_path / "file").touch()
    monkeypatch.setenv("RDD_MAP_DIR", str(tmp_path / "file"))
    assert old_maps.main() == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/file must be a directory; set RDD_MAP_DIR to one\n"


def test_whoever_waits_for_a_map_passes_on_how_far_it_is(tmp_path: Path) -> None:
    heard: list[str] = []

    def wait() -> None:
        with _exclusive(str(tmp_path / "lock"), heard.append):
            heard.append("mine")

    waiting = threading.Thread(target=wait)
    with _exclusive(str(tmp_path / "lock"), lambda progress: None) as note:
        waiting.start()
        for number in (1, 2):
            note(f"{number} of 2 files of features")
            while heard[-1:] != [f"{number} of 2 files of features"]:
                time.sleep(0.01)
    waiting.join(10)
    assert heard[-1] == "mine"


def test_loading_says_how_far_it_is(tmp_path: Path) -> None:
    path = write_features(tmp_path / "features", feature_rows(20, rejected=0))
    heard: list[str] = []
    FeatureTable.load(path, shared=str(tmp_path / "maps"), on_progress=heard.append)
    read = [f"{number} of 3 files of features" for number in (1, 2, 3)]
    assert heard == [*read, "checking the memory map of features"]


def test_a_disk_without_room_is_said_and_left_as_it_was(tmp_path: Path, monkeypatch) -> None:
    names = ("projected", "block_2")
    path, maps = write_features(tmp_path / "features", feature_rows(20), names=names), tmp_path / "maps"
    reserved: list[int] = []

    def second_does_not_fit(descriptor: int, start: int, size: int) -> None:
        reserved.append(size)
        if len(reserved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(node_map.os, "posix_fallocate", second_does_not_fit)
    with pytest.raises(RuntimeError, match=r"no room for a memory map of .* GiB in .*maps \(No space left on device\)"):
        FeatureTable.load(path, inputs=names, shared=str(maps))
    assert not list(map_in(maps).iterdir())
    assert len(FeatureTable.load(path, inputs=names, shared=str(maps))) > 0


def test_a_map_grows_by_what_other_inputs_need_and_reads_nothing_twice(tmp_path: Path, monkeypatch) -> None:
    names = ("projected", "block_2", "block_5")
    path, maps = write_features(tmp_path / "features", feature_rows(20), names=names), tmp_path / "maps"
    read: list = []
    real = FeatureSet.read

    def noted(self: FeatureSet, *args: object, **options: object) -> object:
        read.append(options.get("only"))
        return real(self, *args, **options)

    monkeypatch.setattr(FeatureSet, "read", noted)
    for inputs, text in ((["projected"], False), (["block_5", "projected"], False), (["block_5"], True), (["projected"], True)):
        table = FeatureTable.load(path, inputs=inputs, text=text, shared=str(maps))
        assert torch.equal(
            table.gather(torch.arange(20), "auto").features,
            FeatureTable.load(path, inputs=inputs, text=text).gather(torch.arange(20), "auto").features,
        )
    assert [only for only in read if only is not None] == [["projected"], ["block_5"], ["text"]]
    files = {entry.name for entry in map_in(maps).iterdir()}
    assert files == {"checksums.json", "images.arrow", "records.arrow", "projected.npy", "block_5.npy", "text.npy"}
