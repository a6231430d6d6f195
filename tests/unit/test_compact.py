"""Files of commits rewritten to few files: the same rows, in order, whenever it is killed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.data.index import make_index
from rdd.embedding import compact
from rdd.embedding.compact import Compaction, delete_sources, missing_files, plan_compaction, planned, write_new_file
from rdd.embedding.output import check, parquet_options
from rdd.embedding.resume import WORK, committed_keys
from rdd.schema import features_schema

RECORDS, PER_COMMIT = 36, 7


@pytest.fixture
def config(tiny_model: str) -> Config:
    return override(Config(), {"clip.model": tiny_model, "clip.blocks": [1], "embed.max_quarantined_share": 0.5})


@pytest.fixture
def index() -> pa.Table:
    rows = list(range(RECORDS))
    return make_index(
        {"key": [f"f#{row}" for row in rows], "source": ["f"] * RECORDS, "row": rows, "rows": [[r] for r in rows]}
    )


def row_of(number: int, rng: np.random.Generator) -> dict[str, Any]:
    row = {"key": f"f#{number}", "source": "f", "row": number, "record_id": f"r{number}"}
    if number % 11 == 3:
        return row | {"stage": "decode", "reason": "empty", "detail": "zero bytes"}
    images = 1 + number % 3
    return row | {
        "generators": ["real", "a", "b"][:images],
        "projected": rng.bytes(images * 64),
        "block_1": rng.bytes(images * 64),
        "text_original": rng.bytes(64),
        "text_positive": rng.bytes(64),
        "prompts_cut": 0,
        "caption_original": "a cat",
        "formats": ["JPEG"] * images,
        "content_hashes": [10 * number + i for i in range(images)],
        "sha256s": [rng.bytes(32) for _ in range(images)],
        "jpeg_qualities": [None] * images,
    }


@pytest.fixture
def output(config: Config, tmp_path: Path) -> str:
    """Commits in about the order of the records, as several encoders leave them, and one of what was missing later."""
    rng = np.random.default_rng(0)
    options = parquet_options(config)
    numbers = np.argsort(np.arange(RECORDS) + rng.uniform(0, 12, RECORDS))
    late = numbers % 13 == 5
    numbers = np.concatenate([numbers[~late], numbers[late]])
    folder = str(tmp_path / "features")
    for commit, start in enumerate(range(0, RECORDS, PER_COMMIT)):
        rows = [row_of(number, rng) for number in numbers[start : start + PER_COMMIT].tolist()]
        schema = options["schema"]
        table = pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)
        storage.write_table(
            f"{folder}/data/run_{commit:06d}-0.parquet", table, **{k: v for k, v in options.items() if k != "schema"}
        )
        storage.write_table(f"{folder}/{WORK}/checkpoint/run_{commit:06d}.parquet", table.select(["key"]))
    return folder


def rows_in(output: str) -> list[dict[str, Any]]:
    return [row for file in sorted(Path(output).glob("data/*.parquet")) for row in pq.read_table(file).to_pylist()]


def three_files(config: Config, index: pa.Table, output: str) -> Compaction:
    size = sum(file.size for file in storage.list_files(f"{output}/data"))
    return plan_compaction(check(config, index, output), index, output, file_bytes=size // 3)


def go_on(config: Config, index: pa.Table, output: str) -> None:
    """What the job does when every record is committed."""
    plan = planned(output) or three_files(config, index, output)
    for file in missing_files(plan, output):
        write_new_file(file, index["key"], output, parquet_options(config), plan.rows_per_group)
    delete_sources(plan, output)
    check(config, index, output, plan.names)


def test_the_rows_are_the_same_to_the_bit_and_in_order(config: Config, index: pa.Table, output: str, monkeypatch) -> None:
    monkeypatch.setattr(compact, "ROW_GROUP_BYTES", 1500)
    before = rows_in(output)
    old = pq.ParquetFile(next(Path(output).glob("data/*.parquet")))
    go_on(config, index, output)
    assert rows_in(output) == sorted(before, key=lambda row: row["row"])
    files = sorted(Path(output).glob("data/*.parquet"))
    assert [file.name[-22:] for file in files] == [f"{number:05d}-of-00003.parquet" for number in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == [12, 12, 12]
    new = pq.ParquetFile(files[0])
    assert new.schema_arrow.equals(old.schema_arrow, check_metadata=True)
    assert new.num_row_groups > 1
    for one, other in zip(columns_of(new), columns_of(old), strict=True):
        assert (one.path_in_schema, one.compression, one.has_dictionary_page) == (
            other.path_in_schema,
            other.compression,
            other.has_dictionary_page,
        )


def columns_of(file: pq.ParquetFile) -> list[Any]:
    group = file.metadata.row_group(0)
    return [group.column(number) for number in range(group.num_columns)]


def test_killed_at_any_step_it_goes_on(config: Config, index: pa.Table, output: str, tmp_path: Path, monkeypatch) -> None:
    expected = sorted(rows_in(output), key=lambda row: row["row"])
    real = {name: getattr(storage, name) for name in ("write_json", "atomic_output", "delete_file")}
    left = 0

    def counted(name: str) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return real[name](*arguments, **options)

        return step

    for name in real:
        monkeypatch.setattr(storage, name, counted(name))
    for steps in range(1000):
        killed = str(shutil.copytree(output, tmp_path / str(steps)))
        left = steps
        try:
            go_on(config, index, killed)
            break
        except KeyboardInterrupt:
            left = 1000
        # nothing is embedded again: with a plan all was
        assert planned(killed) is not None or len(committed_keys(killed)) == RECORDS
        go_on(config, index, killed)
        assert rows_in(killed) == expected
        shutil.rmtree(killed)
    files = len(list(Path(killed).glob("data/*.parquet")))
    assert steps >= 2 + 1 + files + RECORDS // PER_COMMIT  # two checks, the plan, the new files, and the old ones


def test_each_step_left_undone_is_done_by_the_next_run(config: Config, index: pa.Table, output: str) -> None:
    expected = sorted(rows_in(output), key=lambda row: row["row"])
    plan = three_files(config, index, output)
    assert planned(output) == plan
    assert len(plan.files) == 3
    write_new_file(plan.files[1], index["key"], output, parquet_options(config), plan.rows_per_group)
    with pytest.raises(RuntimeError, match=r"features-.*-00000-of-.* must be there and is not"):
        delete_sources(plan, output)
    torn = Path(output) / "data" / ".features-00000-of-00003.parquet.0.tmp"
    torn.write_bytes(b"half written, by a killed process")
    go_on(config, index, output)
    assert rows_in(output) == expected
    assert not torn.exists()


def test_a_changed_bit_is_not_rewritten_as_if_it_were_right(config: Config, index: pa.Table, output: str) -> None:
    plan = three_files(config, index, output)
    source = Path(output) / "data" / plan.files[0].sources[0].name
    data = bytearray(source.read_bytes())
    group = pq.ParquetFile(source).metadata.row_group(0)
    place = next(group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == "block_1")
    data[place.data_page_offset + place.total_compressed_size - 5] ^= 1
    source.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"can not be read .*delete the output directory to begin again"):
        write_new_file(plan.files[0], index["key"], output, parquet_options(config), plan.rows_per_group)
    assert not (Path(output) / "data" / plan.files[0].name).exists()


def test_a_file_of_a_commit_that_lacks_a_record_is_noticed(config: Config, index: pa.Table, output: str) -> None:
    plan = three_files(config, index, output)
    source = Path(output) / "data" / plan.files[0].sources[0].name
    pq.write_table(pq.read_table(source).slice(1), source)
    with pytest.raises(RuntimeError, match=r"hold \d+ rows for \d+ records, which must not happen"):
        for file in plan.files:
            write_new_file(file, index["key"], output, parquet_options(config), plan.rows_per_group)


def test_the_schema_names_the_features(config: Config, index: pa.Table, output: str) -> None:
    go_on(config, index, output)
    schema = pq.read_schema(next(Path(output).glob("data/*.parquet")))
    assert schema.names == features_schema(config.clip.features).names
    assert set(json.loads(schema.metadata[b"features"])) == {"projected", "block_1", "text_original", "text_positive"}
