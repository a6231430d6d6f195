"""OpenFake's Parquet, in a made-up miniature."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from rdd.config import Config
from rdd.config.parse import override
from rdd.data.open import open_source
from rdd.data.openfake import COLUMNS

LATER = pa.schema([*COLUMNS, ("type", pa.string()), ("release_date", pa.string())])


def row(
    label: str | None, model: str | None, *, image: bytes | None = b"picture", prompt: str | None = "a cat"
) -> dict[str, Any]:
    whole = {"image": {"bytes": image, "path": "x.jpg"}, "prompt": prompt, "label": label, "model": model}
    return whole | {"type": "base", "release_date": "2025-01-30"}


def write(path: Path, *rows: dict[str, Any], schema: pa.Schema = LATER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path, row_group_size=2)


def records_of(path: Path | str) -> dict[str, dict[str, Any]]:
    source = open_source(override(Config(), {"records.kind": "openfake", "records.path": str(path)}).records)
    index = source.index()
    of_files = [index.filter(pc.equal(index["source"], file)) for file in index["source"].unique().to_pylist()]
    read = pa.concat_tables([table for one in of_files for table in source.reader(one)])
    assert source.images_of(index).tolist() == [1] * index.num_rows
    return {row["record_id"]: row for row in read.to_pylist()}


def test_every_image_is_a_record_with_its_prompt(tmp_path: Path) -> None:
    core, reddit = tmp_path / "core", tmp_path / "reddit" / "test-00000-of-00001.parquet"
    write(core / "train-00000-of-00002.parquet", row("real", "pexels"), row("fake", "flux.1-dev", image=b"1"))
    write(
        core / "train-00001-of-00002.parquet", row("fake", "imagen-4.0", prompt="two dogs"), row("real", None), row("real", "")
    )
    write(reddit, row("fake", "gpt-image-1"), schema=COLUMNS)  # as it was before the last two columns
    records = records_of(tmp_path)
    assert {name: one["generators"] for name, one in records.items()} == {
        "core/train-00000-of-00002.parquet#0": ["real"],
        "core/train-00000-of-00002.parquet#1": ["flux.1-dev"],
        "core/train-00001-of-00002.parquet#0": ["imagen-4.0"],
        "core/train-00001-of-00002.parquet#1": ["real"],
        "core/train-00001-of-00002.parquet#2": ["real"],
        "reddit/test-00000-of-00001.parquet#0": ["gpt-image-1"],
    }
    second = records["core/train-00000-of-00002.parquet#1"]
    assert (second["images"], second["text_original"]) == ([b"1"], "a cat")
    dogs = records["core/train-00001-of-00002.parquet#0"]
    assert dogs["text_original"] == dogs["text_positive"] == "two dogs"
    assert len(records_of(f"{core}/train-00001*")) == 3  # one part alone


def test_a_row_that_says_nothing_certain_is_rejected(tmp_path: Path) -> None:
    write(
        tmp_path / "train-00000-of-00001.parquet",
        row("real", "real"),
        row("tampered", "flux.1-dev"),
        row(None, "flux.1-dev"),
        row("fake", ""),
        row("fake", "real"),
        row("fake", "flux.1-dev", image=None),
    )
    reasons = [one["reason"] for one in records_of(tmp_path).values()]
    assert reasons == [None, "bad_label", "bad_label", "bad_generator", "bad_generator", "null_bytes"]


def test_another_parquet_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "label": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet lacks the column\(s\) prompt, model"):
        records_of(tmp_path)
    write(tmp_path / "empty" / "train-0.parquet")
    with pytest.raises(ValueError, match="hold no image"):
        records_of(tmp_path / "empty")
