from pathlib import Path

import pyarrow as pa

from rdd import storage
from rdd.embedding.resume import WORK, committed_files, committed_keys, settle_commits


def test_a_commit_that_stands_under_both_names_is_done_and_one_that_is_pending_is_not(tmp_path: Path) -> None:
    checkpoint, data = tmp_path / WORK / "checkpoint", tmp_path / "data"
    for name in ("a.parquet", "a.pending.parquet", "b.pending.parquet", "c.parquet"):
        storage.write_table(str(checkpoint / name), pa.table({"key": [name[0]]}))
        storage.write_table(str(data / f"{name[0]}-0.parquet"), pa.table({"key": [name[0]]}))
    settle_commits(str(tmp_path))
    assert sorted(path.name for path in checkpoint.iterdir()) == ["a.parquet", "b.pending.parquet", "c.parquet"]
    assert committed_keys(str(tmp_path)).to_pylist() == ["a", "c"]
    assert [Path(path).name for path in committed_files(str(tmp_path))] == ["a-0.parquet", "c-0.parquet"]


def test_an_output_without_commits_has_nothing_to_settle(tmp_path: Path) -> None:
    settle_commits(str(tmp_path))
    assert committed_keys(str(tmp_path)).to_pylist() == []
