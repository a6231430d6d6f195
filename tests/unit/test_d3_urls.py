"""The addresses of D3's real images."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdd import storage
from rdd.data.d3_urls import list_records, read_addresses


def write(path: Path, **columns) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    pq.write_table(pa.table(columns), path, row_group_size=2, write_page_checksum=True, **plain)


def read(folder: Path, excluded: frozenset[str] = frozenset()) -> list[dict]:
    return read_addresses(list_records(str(folder)), excluded).to_pylist()


def test_every_row_is_there_in_order_with_why_it_is_not_fetched(tmp_path: Path) -> None:
    write(
        tmp_path / "data" / "a.parquet", id=["1", "2", None, "1"], url=["http://a/1", "http://a/2", "http://a/3", "http://a/4"]
    )
    write(tmp_path / "data" / "b.parquet", id=["5", "6", "7", "8"], url=["http://a/1", None, "", "http://a/2"])
    rows = read(tmp_path, frozenset({"2"}))
    assert [row["id"] for row in rows] == ["1", "2", None, "1", "5", "6", "7", "8"]
    assert [row["status"] for row in rows] == [
        None,
        "excluded",
        "null_id",
        "duplicate_id",
        "same_url",
        "null_url",
        "null_url",
        None,  # the row that has its address is excluded, so it is the first to be asked for
    ]
    assert [row["first"] for row in rows] == [0, 1, 2, 3, 0, 5, 6, 7]
    assert rows[3]["detail"] == "'1' stands earlier in the set"
    assert rows[0]["declared_width"] is None


def test_declared_sizes_are_kept_where_records_have_them(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", id=["1"], url=["http://a/1"], width=pa.array([640], pa.int32()), height=[480])
    write(tmp_path / "b.parquet", id=["2"], url=["http://a/2"], width=["wide"], height=[1.5])
    rows = read(tmp_path)
    assert [(row["declared_width"], row["declared_height"]) for row in rows] == [(640, 480), (None, None)]


def test_a_corrupt_page_costs_its_rows_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, id=[f"{i}" for i in range(6)], url=[f"http://somewhere.example/{i}" for i in range(6)])
    data = bytearray(path.read_bytes())
    data[data.index(b"somewhere.example/2") + 3] ^= 1
    path.write_bytes(data)
    assert [row["status"] for row in read(tmp_path)] == [None, None, "unreadable", "unreadable", None, None]


def test_bytes_that_are_no_text_do_not_fail_their_file(tmp_path: Path) -> None:
    binary = pa.array([b"http://a/\xff.jpg", b"http://a/ok.jpg", None])
    urls = pa.Array.from_buffers(pa.string(), len(binary), binary.buffers())  # as a careless writer leaves them
    write(tmp_path / "a.parquet", id=["1", "2", "3"], url=urls)
    assert [row["url"] for row in read(tmp_path)] == ["http://a/\\xff.jpg", "http://a/ok.jpg", None]


def test_wrong_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no directory at"):
        list_records(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no Parquet file below"):
        list_records(str(tmp_path))
    write(tmp_path / "a.parquet", id=["1"], address=["http://a"])
    with pytest.raises(ValueError, match=r"lacks the column\(s\) url; it has id, address"):
        read(tmp_path)
    write(tmp_path / "a.parquet", id=pa.array([], pa.string()), url=pa.array([], pa.string()))
    with pytest.raises(ValueError, match="hold no record"):
        read(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not a readable Parquet file"):
        read_addresses([storage.File(str(tmp_path / "a.parquet"), 4, 0)], frozenset())
