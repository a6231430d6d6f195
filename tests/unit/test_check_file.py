"""One file of features, read whole."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdd.embedding.check_file import FlawError, added, check_file
from rdd.features.columns import Column
from rdd.schema import FILE_FACTS, features_schema

COLUMNS = {"projected": Column("projected", 4, np.dtype("<f2"))}


def write(path: Path, rows: list[dict]) -> str:
    schema = features_schema(["projected"])
    full = [{name: row.get(name) for name in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema=schema), path)
    return str(path)


def row(number: int, images: int = 2) -> dict:
    place = {"key": f"a#{number}", "source": "a", "row": number, "record_id": f"r{number}", "prompts_cut": 1}
    facts = dict.fromkeys(FILE_FACTS, [None] * images) | {"content_hashes": [number] * images}
    generators = ["real", *["sd"] * (images - 1)]
    return place | facts | {"generators": generators, "projected": np.arange(4 * images, dtype="<f2").tobytes()}


def rejected(number: int) -> dict:
    place = {"key": f"a#{number}", "source": "a", "row": number, "record_id": None}
    return place | {"stage": "index", "reason": "null_id"}


def test_a_sound_file_says_what_it_holds(tmp_path: Path) -> None:
    found = check_file(write(tmp_path / "f.parquet", [row(0), rejected(1), row(2, images=3)]), COLUMNS, d3=False)
    assert (len(found.keys), len(found.record_ids), len(found.rejected)) == (3, 2, 1)
    assert found.counts == {
        "records_in": 3,
        "records_written": 2,
        "records_quarantined": 1,
        "quarantined": {"null_id": 1},
        "images": 5,
        "generated_images_missing": 0,
        "prompts_cut": 2,
    }
    assert found.images["generators"].to_pylist() == [["real", ""], ["real", "", ""]]
    only_rejected = check_file(write(tmp_path / "g.parquet", [rejected(3)]), COLUMNS, d3=True)
    assert added([found.counts, only_rejected.counts])["quarantined"] == {"null_id": 2}
    assert only_rejected.images.num_rows == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": None}, "a row without a place"),
        ({"record_id": None}, "a record without an id or without generators"),
        ({"generators": ["real", None]}, "an image without a generator"),
        ({"formats": ["PNG"]}, "holds formats of more or fewer images than there are of the record 'a#7'"),
        ({"projected": None}, "holds nothing in projected of the record 'a#7'"),
        ({"projected": b"\0" * 14}, "another number of bytes than 4 numbers a vector need in projected of the record 'a#7'"),
        ({"projected": b"\0" * 14 + b"\0\x7c"}, "holds NaN or infinity in projected of the record 'a#7'"),
        ({"stage": "decode", "reason": "undecodable"}, "holds projected of a record that was rejected"),
    ],
)
def test_a_flaw_names_its_record(tmp_path: Path, change: dict, said: str) -> None:
    rows = [rejected(0), row(1), row(7) | change, row(8)]
    with pytest.raises(FlawError, match=said):
        check_file(write(tmp_path / "f.parquet", rows), COLUMNS, d3=False)


def test_no_parquet_no_rows_and_other_columns_are_flaws(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(FlawError, match="can not be read"):
        check_file(str(tmp_path / "f.parquet"), COLUMNS, d3=False)
    with pytest.raises(FlawError, match="holds no record"):
        check_file(write(tmp_path / "g.parquet", []), COLUMNS, d3=False)
    block = {"block_2": Column("block_2", 4, np.dtype("<f2"))}
    with pytest.raises(FlawError, match="lacks the column block_2"):
        check_file(write(tmp_path / "h.parquet", [row(0)]), block, d3=False)
    with pytest.raises(FileNotFoundError):
        check_file(str(tmp_path / "gone.parquet"), COLUMNS, d3=False)
