"""Directories, wildcards and lists of files as sources."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import S3Server, s3_server

from rdd import storage
from rdd.config import RecordsConfig
from rdd.data.d3 import D3Source
from rdd.data.d3_urls import list_records
from rdd.data.file_sets import parquet_files
from rdd.data.open import open_source
from rdd.schema import D3, REAL_IMAGES


def write(folder: str, *names: str) -> None:
    """A file of two records each, with the name in their ids."""
    for name in names:
        rows = [{field: None for field in D3.names} | {"id": f"{name}-{row}"} for row in range(2)]
        storage.write_table(f"{folder}/{name}", pa.Table.from_pylist(rows, schema=D3))


@pytest.fixture
def d3(tmp_path: Path) -> Path:
    write(str(tmp_path / "d3"), "a/part-00.parquet", "a/part-10.parquet", "b/part-01.parquet", "b/c/part-02.parquet")
    (tmp_path / "d3" / "a" / "part-03.txt").write_text("no Parquet")
    write(str(tmp_path / "d3"), ".hidden/part-04.parquet")
    real = [{"id": f"b/part-01.parquet-{row}", "status": "ok", "bytes": b"x"} for row in range(2)]
    table = pa.Table.from_pylist([{field: row.get(field) for field in REAL_IMAGES.names} for row in real], schema=REAL_IMAGES)
    storage.write_table(str(tmp_path / "real" / "r.parquet"), table)
    return tmp_path


def names(path: str) -> list[str]:
    return [named.name for named in parquet_files(path)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d3", ["a/part-00.parquet", "a/part-10.parquet", "b/c/part-02.parquet", "b/part-01.parquet"]),
        ("d3/*/part-0*.parquet", ["a/part-00.parquet", "b/part-01.parquet"]),
        ("d3/**/part-0*", ["a/part-00.parquet", "b/c/part-02.parquet", "b/part-01.parquet"]),
        ("d3/a/part-?0.parquet", ["part-00.parquet", "part-10.parquet"]),
        ("d3/a/part-[1-9]*", ["part-10.parquet"]),
    ],
)
def test_a_wildcard_names_files_in_a_fixed_order(d3: Path, pattern: str, expected: list[str], monkeypatch) -> None:
    assert names(f"{d3}/{pattern}") == expected
    monkeypatch.chdir(d3)
    assert names(pattern) == expected
    assert [file.path for file in list_records(pattern)] == [named.file.path for named in parquet_files(f"{d3}/{pattern}")]


def test_keys_are_those_of_the_directory(d3: Path) -> None:
    of_directory = {key for key in D3Source(f"{d3}/d3", f"{d3}/real").index()["key"].to_pylist() if "/part-0" in key}
    index = D3Source(f"{d3}/d3/**/part-0*.parquet", f"{d3}/rea?/*.parquet").index()
    assert set(index["key"].to_pylist()) == of_directory
    (d3 / "d3" / "some.txt").write_text("b/part-01.parquet\na/part-00.parquet\nb/c/part-02.parquet\n")
    index = D3Source(f"{d3}/d3/some.txt", f"{d3}/real").index()
    assert set(index["key"].to_pylist()) == of_directory
    assert index["key"].to_pylist()[:3] == ["b/part-01.parquet#0", "b/part-01.parquet#1", "a/part-00.parquet#0"]


def test_a_list_names_files_anywhere_in_its_own_order(d3: Path) -> None:
    outside = d3 / "elsewhere.parquet"
    pq.write_table(pq.read_table(d3 / "d3" / "a" / "part-10.parquet"), outside)
    lines = [
        "# the best",
        "",
        "  b/part-01.parquet ",
        "./a/part-00.parquet",
        "../elsewhere.parquet",
        "file://" + str(d3 / "real/r.parquet"),
    ]
    (d3 / "d3" / "some.txt").write_text("\n".join(lines))
    assert names(f"{d3}/d3/some.txt") == ["b/part-01.parquet", "a/part-00.parquet", str(outside), f"{d3}/real/r.parquet"]
    (d3 / "real.txt").write_text("real/r.parquet\n")
    (d3 / "one.txt").write_text("d3/b/part-01.parquet\n")
    source = D3Source(f"{d3}/one.txt", f"{d3}/real.txt")
    assert set(source.reader.real_images.lookup(["b/part-01.parquet-0"])) == {"b/part-01.parquet-0"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a/part-00.parquet\n# gone\na/part-99.parquet\nb\n",
            r"in line 3, which is no file that is there \(and 1 more are not\)$",
        ),
        (
            "a/part-00.parquet\n\n./a/../a/part-00.parquet\n",
            r"a/part-00\.parquet twice, in lines 1 and 3; a file must be named once",
        ),
        ("# nothing\n\n", "names no Parquet file; it must hold a path or an address on each line"),
        ("s3x://bucket/a.parquet\n", "a path must be local or an address"),
        (b"caf\xe9.parquet\n", "must be text in UTF-8"),
    ],
)
def test_a_wrong_list_is_refused(d3: Path, text: str | bytes, said: str) -> None:
    (d3 / "d3" / "some.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said):
        parquet_files(f"{d3}/d3/some.txt")


def test_what_names_no_file_is_refused(d3: Path) -> None:
    for path, said in (
        (
            f"{d3}/d3/*/part-9*.parquet",
            r"no Parquet file of real images is like .*part-9\*\.parquet; a wildcard must name files",
        ),
        (f"{d3}/d3/*", "no Parquet file of real images is like"),
        (f"{d3}/d3/a**/x", "is no wildcard"),
        (f"{d3}/d3/gone.txt", "no list of files at"),
        (f"{d3}/nowhere", "no directory at"),
        (f"{d3}/real/r.parquet", "must be a directory and is a file"),
    ):
        with pytest.raises(ValueError, match=said):
            parquet_files(path, what=" of real images")
    for kind, one in (("folder", "one folder"), ("manifest", "one table")):
        with pytest.raises(
            ValueError, match=rf"records\.path must be {one} when records\.kind is {kind}, got .*; a manifest may"
        ):
            open_source(RecordsConfig(kind=kind, path=f"{d3}/*"))


def test_a_directory_with_a_wild_name_is_a_directory(tmp_path: Path) -> None:
    write(str(tmp_path / "d3[1].txt"), "a.parquet")
    assert names(str(tmp_path / "d3[1].txt")) == ["a.parquet"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as running:
        yield running


def test_wildcards_and_lists_on_s3_beside_local_files(server: S3Server, d3: Path) -> None:
    bucket = server.bucket
    write(f"{bucket}/d3", "a/part-00.parquet", "b/part-01.parquet", "b/part-11.parquet", "b/.x/part-02.parquet")
    found = parquet_files(f"{bucket}/d3/*/part-0*.parquet")
    assert [named.name for named in found] == ["a/part-00.parquet", "b/part-01.parquet"]
    listed = {file.path: file for file in storage.list_files(f"{bucket}/d3")}
    assert [named.file for named in found] == [listed[named.file.path] for named in found]
    storage.write_bytes(
        f"{bucket}/d3/some.txt", f"b/part-11.parquet\n{d3}/d3/a/part-10.parquet\n{bucket}/d3/a/part-00.parquet".encode()
    )
    assert names(f"{bucket}/d3/some.txt") == ["b/part-11.parquet", f"{d3}/d3/a/part-10.parquet", "a/part-00.parquet"]
    index = D3Source(f"{bucket}/d3/some.txt", f"{d3}/real").index()
    assert index["key"].to_pylist()[:3] == ["b/part-11.parquet#0", "b/part-11.parquet#1", f"{d3}/d3/a/part-10.parquet#0"]
    (d3 / "mixed.txt").write_text(f"d3/b/part-01.parquet\n{bucket}/d3/b/part-11.parquet\n")
    assert names(f"{d3}/mixed.txt") == ["d3/b/part-01.parquet", f"{bucket}/d3/b/part-11.parquet"]
    storage.write_bytes(f"{bucket}/d3/some.txt", b"b/part-11.parquet\nb/gone.parquet\n")
    with pytest.raises(ValueError, match=r"names s3://rdd-test/d3/b/gone\.parquet in line 2, which is no file that is there$"):
        parquet_files(f"{bucket}/d3/some.txt")
    with pytest.raises(ValueError, match="no Parquet file is like"):
        parquet_files(f"{bucket}/d3/*/part-9*.parquet")


def test_d3s_validation_files_are_a_source_of_their_own_beside_its_training_files(d3: Path) -> None:
    write(
        f"{d3}/data", *[f"{part}-0000{number}-of-00002-ab.parquet" for part in ("train", "validation") for number in range(2)]
    )
    index = D3Source(f"{d3}/data/validation-*", f"{d3}/real").index()
    assert index["key"].to_pylist() == [
        f"validation-0000{number}-of-00002-ab.parquet#{row}" for number in (0, 1) for row in (0, 1)
    ]
    assert index["reason"].null_count == index.num_rows == 4
