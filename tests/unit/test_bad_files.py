"""What is damaged, or is no file at all, costs its records and nothing else."""

import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdd.data import parquet_rows
from rdd.data.d3 import D3Source
from rdd.data.folder import FolderSource
from rdd.data.manifest import ManifestSource
from rdd.data.open import Source
from rdd.data.parquet_rows import read_rows
from rdd.schema import D3, REAL_IMAGES

ROWS, GROUP = 60, 20


def write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=GROUP, compression="zstd", use_dictionary=False)


def corrupt(path: Path, column: str, group: int) -> None:
    """Overwrite the middle of a column's pages in one row group."""
    row_group = pq.ParquetFile(path).metadata.row_group(group)
    chunks = [row_group.column(number) for number in range(row_group.num_columns)]
    (chunk,) = (chunk for chunk in chunks if chunk.path_in_schema == column)
    with open(path, "r+b") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size // 2)
        file.write(b"\xff" * (chunk.total_compressed_size // 4))


def read_all(source: Source) -> list[dict]:
    index = source.index()
    keys = index["source"].to_pylist()
    starts = [row for row in range(len(keys)) if row == 0 or keys[row] != keys[row - 1]] + [len(keys)]
    groups = (source.reader(index.slice(a, b - a)) for a, b in itertools.pairwise(starts))
    rows = pa.concat_tables([table for group in groups for table in group]).to_pylist()
    return sorted(rows, key=lambda row: (row["source"], row["row"]))


@pytest.fixture
def noise() -> list[bytes]:
    """What does not compress, so that a page is as long as its values."""
    rng = np.random.default_rng(0)
    return [rng.bytes(200) for _ in range(ROWS)]


def test_rows_of_a_corrupt_page_are_named_and_the_others_come(tmp_path: Path, noise: list[bytes]) -> None:
    path = tmp_path / "t.parquet"
    write(path, pa.table({"x": range(ROWS), "bytes": noise}))
    corrupt(path, "bytes", 1)
    read = list(read_rows(str(path), range(ROWS), ["x", "bytes"]))
    good = [row for rows, table in read if not isinstance(table, str) for row in rows.tolist()]
    bad = [row for rows, table in read if isinstance(table, str) for row in rows.tolist()]
    assert sorted(good + bad) == list(range(ROWS))
    assert 39 in bad
    assert set(bad) <= set(range(20, 40))
    assert [table["x"].to_pylist() for rows, table in read if not isinstance(table, str)] == [
        rows.tolist() for rows, table in read if not isinstance(table, str)
    ]


def test_a_store_that_fails_once_costs_nothing_and_one_that_stays_away_ends_the_run(
    tmp_path: Path, noise: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    write(path, pa.table({"bytes": noise}))
    real, failures = pq.ParquetFile.iter_batches, [1]

    def failing(self, *arguments, **options):
        if failures[0]:
            failures[0] -= 1
            raise OSError(5, "Input/output error")
        return real(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", failing)
    assert sum(len(rows) for rows, _ in read_rows(str(path), range(ROWS), ["bytes"])) == ROWS
    failures[0] = 10

    def gone(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(parquet_rows, "_read_bytes", gone)
    with pytest.raises(OSError, match="Input/output error"):
        list(read_rows(str(path), range(ROWS), ["bytes"]))


def test_images_of_a_manifest(tmp_path: Path, noise: list[bytes]) -> None:
    columns = {"bytes": noise, "label": [row % 2 for row in range(ROWS)]}
    columns["generator"] = ["sd" if label else "real" for label in columns["label"]]
    write(tmp_path / "m.parquet", pa.table(columns))
    corrupt(tmp_path / "m.parquet", "bytes", 2)
    rows = read_all(ManifestSource(str(tmp_path / "m.parquet")))
    assert len(rows) == ROWS
    bad = [row["row"] for row in rows if row["reason"] is not None]
    assert {row["reason"] for row in rows} == {None, "unreadable"}
    assert set(bad) <= set(range(40, 60))
    corrupt(tmp_path / "m.parquet", "label", 0)
    with pytest.raises(ValueError, match=r"m\.parquet can not be read: "):
        ManifestSource(str(tmp_path / "m.parquet"))


def test_a_string_of_a_manifest_that_is_not_utf8_rejects_its_record_alone(tmp_path: Path) -> None:
    names = pa.array([b"real", b"s\xffd", b"sd", b"real"], pa.binary())
    columns = {"bytes": [b"a", b"b", b"c", b"d"], "label": [0, 1, 1, 0]}
    columns |= {"generator": pa.Array.from_buffers(pa.string(), 4, names.buffers())}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    rows = read_all(ManifestSource(str(tmp_path / "m.parquet")))
    assert [row["reason"] for row in rows] == [None, "not_utf8", None, None]
    assert rows[1]["detail"] == "row 1: generator is no UTF-8: s\\xffd"


def test_a_manifest_with_a_column_twice_or_spaces_in_its_header_is_refused_by_name(tmp_path: Path) -> None:
    twice = pa.table([[b"a"], [0], [0], ["real"]], names=["bytes", "label", "label", "generator"])
    pq.write_table(twice, tmp_path / "m.parquet")
    with pytest.raises(ValueError, match=r"m\.parquet has a column twice: 'bytes', 'label', 'label', 'generator'"):
        ManifestSource(str(tmp_path / "m.parquet"))
    (tmp_path / "m.csv").write_text("path, label,generator\na.png,0,real\n")
    with pytest.raises(ValueError, match=r"lacks the column\(s\) label; it has 'path', ' label', 'generator'"):
        ManifestSource(str(tmp_path / "m.csv"))


def test_a_manifests_path_that_can_be_none_rejects_its_record_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    columns = {"path": ["a.png", "b\0.png", ""], "label": [0, 0, 0], "generator": ["real"] * 3, "record_id": ["1", "2", "3"]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    rows = read_all(ManifestSource(str(tmp_path / "m.parquet")))
    assert [(row["record_id"], row["reason"]) for row in rows] == [("1", None), ("2", "unreadable_file"), ("3", "null_path")]
    assert rows[1]["detail"] == "embedded null byte"


def test_a_name_that_is_empty_is_as_good_as_none(tmp_path: Path) -> None:
    columns = {"bytes": [b"a", b"b", b"c"], "label": [0, 1, 0], "generator": ["real", "", "real"], "record_id": ["1", "2", ""]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    rows = read_all(ManifestSource(str(tmp_path / "m.parquet")))
    assert [row["reason"] for row in rows] == [None, "null_generator", "null_id"]


def test_a_pipe_among_images_is_quarantined_and_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").write_bytes(b"a")
    os.mkfifo(tmp_path / "real" / "pipe.png")
    good, pipe = read_all(FolderSource(str(tmp_path)))
    assert good["reason"] is None
    assert (pipe["reason"], pipe["detail"]) == ("unreadable_file", f"{tmp_path}/real/pipe.png is no regular file")


@pytest.fixture
def d3(tmp_path: Path, noise: list[bytes]) -> Path:
    images = {f"image_gen{k}": {"bytes": noise[k], "path": ""} for k in range(4)}
    models = {f"model_gen{k}": f"model-{k}" for k in range(4)}
    ids = [noise[row].hex() for row in range(ROWS)]
    records = [{"id": name, "original_prompt": name[::-1]} | images | models for name in ids]
    real = [{"id": name, "bytes": noise[row], "status": "ok"} for row, name in enumerate(ids)]
    write(tmp_path / "records" / "a.parquet", pa.Table.from_pylist(records, schema=D3))
    write(tmp_path / "real" / "r.parquet", pa.Table.from_pylist(real, schema=REAL_IMAGES))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "column", "reason"),
    [
        ("records/a.parquet", "original_prompt", "unreadable"),
        ("records/a.parquet", "image_gen2.bytes", "unreadable"),
        ("records/a.parquet", "id", "unreadable"),
        ("real/r.parquet", "bytes", "real_image_failed"),
        ("real/r.parquet", "id", "real_image_missing"),
    ],
)
def test_records_of_d3(d3: Path, file: str, column: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    corrupt(d3 / file, column, 1)
    rows = read_all(D3Source(str(d3 / "records"), str(d3 / "real")))
    assert [row["row"] for row in rows] == list(range(ROWS))
    bad = [row["row"] for row in rows if row["reason"] is not None]
    assert {row["reason"] for row in rows} == {None, reason}
    assert 39 in bad
    assert set(bad) <= set(range(20, 40))
    if reason == "real_image_missing":
        assert "r.parquet: the ids of row group 1 from its row" in caplog.text
    if reason == "real_image_failed":
        assert all(row["detail"].startswith("unreadable: ") for row in rows if row["reason"] is not None)


@pytest.mark.parametrize("cut", [0, 3, 500, -3, "footer"])
@pytest.mark.parametrize("file", ["records/b.parquet", "real/s.parquet"])
def test_a_parquet_file_that_is_cut_among_good_ones_is_refused_by_name(d3: Path, file: str, cut: int | str) -> None:
    """Its rows can not be counted, so nothing can be promised of them."""
    (good,) = (d3 / file).parent.iterdir()
    whole = good.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    broken = whole[:footer] + b"\xff" * 40 + whole[footer + 40 :] if cut == "footer" else whole[:cut]
    (d3 / file).write_bytes(broken)
    with pytest.raises(ValueError, match=rf"{file} is not a readable Parquet file \(.+\); bring it whole or take it away$"):
        D3Source(str(d3 / "records"), str(d3 / "real")).index()


@pytest.mark.parametrize("file", ["records/a.parquet", "real/r.parquet"])
def test_a_file_that_goes_between_listing_and_reading_is_named(d3: Path, file: str) -> None:
    source = D3Source(str(d3 / "records"), str(d3 / "real"))
    index = source.index()
    (d3 / file).unlink()
    said = rf"{file} was there when the job began and is gone; bring it back and start the same command again$"
    with pytest.raises(RuntimeError, match=said):
        list(source.reader(index))
    if file.startswith("records"):
        with pytest.raises(RuntimeError, match=said):
            source.index()
