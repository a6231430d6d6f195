import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator

import pyarrow as pa
import pytest
from s3_server import s3_server

from rdd import storage


def test_listing_is_sorted_and_leaves_hidden_names_out(tmp_path) -> None:
    for name in ("b.parquet", "a/c.parquet", ".work/d.parquet", ".partial/e.parquet", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    files = storage.list_files(str(tmp_path), suffix=".parquet")
    assert [os.path.relpath(file.path, tmp_path) for file in files] == ["a/c.parquet", "b.parquet"]
    assert files[0].size == 2


def test_listing_what_is_no_directory_is_refused() -> None:
    with pytest.raises(ValueError, match="no directory at nowhere"):
        storage.list_files("nowhere")
    with pytest.raises(ValueError, match="must be a directory and is a file"):
        storage.list_files(__file__)


def test_unknown_schemes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a path must be local or an address such as s3://.* got 'nowhere://bucket/x'"):
        storage.filesystem("nowhere://bucket/x")


def test_a_missing_package_of_an_object_store_is_named() -> None:
    with pytest.raises(ValueError, match=r"gs://bucket/x can not be read on this machine: .*gcsfs"):
        storage.filesystem("gs://bucket/x")


def test_any_address_that_fsspec_knows_is_a_place_to_work_in() -> None:
    storage.write_json("memory://bucket/a/b.json", [1])
    assert storage.read_json("memory://bucket/a/b.json", list, way_out="") == [1]
    (file,) = storage.list_files("memory://bucket", suffix=".json")
    assert file.path.startswith("memory://")
    assert storage.read_bytes(file.path) == storage.read_bytes("memory://bucket/a/b.json")
    storage.delete_directory("memory://bucket")
    assert not storage.exists("memory://bucket/a/b.json")


def test_a_file_address_is_a_local_path(tmp_path) -> None:
    storage.write_bytes(f"file://{tmp_path}/x", b"1")
    assert storage.read_bytes(str(tmp_path / "x")) == b"1"
    assert storage.absolute(f"file://{tmp_path}/x") == str(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"NaN,"])
def test_torn_json_names_the_file_and_the_way_out(tmp_path, content: bytes) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"metrics\.json is torn or no JSON \(.*\); delete it"):
        storage.read_json(str(tmp_path / "metrics.json"), dict, way_out="delete it")


def test_a_torn_table_names_the_file_and_the_way_out(tmp_path) -> None:
    path = str(tmp_path / "t.parquet")
    storage.write_table(path, pa.table({"a": [1]}))
    whole = storage.read_bytes(path)
    with pytest.raises(RuntimeError, match=r"t\.parquet lacks the column\(s\) b; delete it"):
        storage.read_table(path, ["a", "b"], way_out="delete it")
    for torn in (b"", whole[:-9], whole[:8] + b"\0" * (len(whole) - 8)):
        storage.write_bytes(path, torn)
        with pytest.raises(RuntimeError, match=r"t\.parquet can not be read \(.*\); delete it"):
            storage.read_table(path, way_out="delete it")


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path) -> None:
    path = str(tmp_path / "x")
    storage.write_bytes(path, b"old")
    with pytest.raises(KeyError), storage.atomic_output(path) as stream:
        stream.write(b"new")
        raise KeyError
    assert storage.read_bytes(path) == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(RuntimeError, match=r"big\.bin can not be written \(File too large\); make room and start"):
            storage.write_bytes(str(tmp_path / "big.bin"), bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_came_later_does_not_shut_out_what_was_made_before_it(tmp_path) -> None:
    path, old = str(tmp_path / "out"), {"features": {"path": "x"}}
    with storage.owned_directory(path, old):
        pass
    added = {"features.inputs": ["projected"], "clip.blocks": []}
    with storage.owned_directory(path, {"features": {"path": "x", "inputs": ["projected"]}}, added=added):
        pass
    with (
        pytest.raises(ValueError, match=r"features\.inputs \(\['projected'\] there, \['block_9'\] now\)"),
        storage.owned_directory(path, {"features": {"path": "x", "inputs": ["block_9"]}}, added=added),
    ):
        pass


def test_an_owned_directory_takes_the_same_config_again(tmp_path) -> None:
    path = str(tmp_path / "out")
    config = {"loss": {"alpha": 0.5, "p": 2}, "embed": {"num_workers": 1}}
    with storage.owned_directory(path, config):
        pass
    with storage.owned_directory(path, config | {"embed": {"num_workers": 2}}, neutral=["embed.num_workers"]):
        pass
    with (
        pytest.raises(ValueError, match=r"loss\.alpha \(0\.5 there, 0\.6 now\)") as caught,
        storage.owned_directory(path, config | {"loss": {"alpha": 0.6, "p": 2}}),
    ):
        pass
    assert "loss.p" not in str(caught.value)


def test_an_empty_mapping_is_a_setting_like_any_other(tmp_path) -> None:
    with storage.owned_directory(str(tmp_path / "out"), {"rows": {"ours": {}, "more": {}}}):
        pass
    with (
        pytest.raises(ValueError, match=r"another config: rows.more \({} there, None now\), rows.other \(None there, {} now\)"),
        storage.owned_directory(str(tmp_path / "out"), {"rows": {"ours": {}, "other": {}}}),
    ):
        pass


def test_a_directory_with_other_things_in_it_is_not_taken(tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match="choose another output"), storage.owned_directory(str(tmp_path), {}):
        pass
    assert (tmp_path / "letter.txt").read_text() == "mine"
    assert not (tmp_path / "config.yaml").exists()


def test_two_processes_do_not_share_a_directory(tmp_path) -> None:
    code = f"from rdd import storage\nwith storage.owned_directory({str(tmp_path)!r}, {{}}): print('taken')"
    with storage.owned_directory(str(tmp_path), {}):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "another process is working on" in second.stderr
    assert "taken" not in second.stdout
    third = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert third.stdout == "taken\n"


@pytest.mark.parametrize("text", ["", "- 1", "a: b: c"])
def test_a_broken_config_of_a_directory_is_said(tmp_path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="choose another output"), storage.owned_directory(str(tmp_path), {}):
        pass


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a local imitation of S3, for this process and those that it starts."""
    with s3_server(monkeypatch) as server:
        yield server.bucket


def test_the_same_functions_work_on_s3(bucket: str) -> None:
    path = storage.join(bucket, "run", "data", "x.parquet")
    assert not storage.exists(path)
    storage.write_table(path, pa.table({"a": [1, 2]}))
    assert storage.exists(path)
    assert [file.path for file in storage.list_files(storage.join(bucket, "run"), suffix=".parquet")] == [path]
    with storage.owned_directory(storage.join(bucket, "out"), {"a": {"b": 1}}):
        storage.write_json(storage.join(bucket, "out", "manifest.json"), {"n": 1})
    assert storage.read_json(storage.join(bucket, "out", "manifest.json"), dict, way_out="") == {"n": 1}
    with pytest.raises(ValueError, match=r"a\.b"), storage.owned_directory(storage.join(bucket, "out"), {"a": {"b": 2}}):
        pass
    with pytest.raises(KeyError), storage.atomic_output(storage.join(bucket, "half")) as stream:
        stream.write(b"half")
        raise KeyError
    assert not storage.exists(storage.join(bucket, "half"))
    with pytest.raises(OSError, match="bucket"):
        storage.write_bytes("s3://rdd-mistyped/x", b"")
    storage.delete_directory(storage.join(bucket, "run"))
    assert not storage.exists(path)


def test_one_path_written_in_two_ways_is_one_config(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with storage.owned_directory(str(tmp_path / "out"), {"features": {"path": "data/x", "kind": "a"}}):
        pass
    for path in ("data/x/", "./data/x", str(tmp_path / "data" / "x")):
        with storage.owned_directory(str(tmp_path / "out"), {"features": {"path": path, "kind": "a"}}):
            pass
    for features in ({"path": "data/y", "kind": "a"}, {"path": "data/x", "kind": "b"}, {"path": "", "kind": "a"}):
        with (
            pytest.raises(ValueError, match="was made with another config"),
            storage.owned_directory(str(tmp_path / "out"), {"features": features}),
        ):
            pass
