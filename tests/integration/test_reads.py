"""What an embedding on S3 reads, in bytes and requests: what it needs, and nothing around it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from s3_server import S3Server, s3_server

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.data.d3 import D3Source
from rdd.data.index import make_index
from rdd.data.real_images import RealImages
from rdd.embedding.compact import delete_sources, plan_compaction, write_new_file
from rdd.embedding.output import check, parquet_options, read_described
from rdd.embedding.resume import WORK, committed_keys
from rdd.features import FeatureTable
from rdd.schema import D3, NUM_GENERATED, REAL_IMAGES

ROWS, IMAGE_BYTES = 64, 40_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with s3_server(monkeypatch) as running:
        yield running


def image(rng: np.random.Generator) -> bytes:
    return rng.bytes(IMAGE_BYTES)


def write_records(folder: str) -> int:
    """Two files of records and one of real images, as D3 has them; the images are noise, for nobody decodes them."""
    rng, ids = np.random.default_rng(0), [f"{number:024d}" for number in range(2 * ROWS)]
    for number in range(2):
        rows = []
        for name in ids[number * ROWS : (number + 1) * ROWS]:
            row = {"id": name, "original_prompt": "a cat", "positive_prompt": "a cat, sharp"}
            for i in range(NUM_GENERATED):
                row |= {f"model_gen{i}": f"m{i}", f"image_gen{i}": {"bytes": image(rng), "path": None}}
            rows.append({field: row.get(field) for field in D3.names})
        storage.write_table(f"{folder}/records/{number}.parquet", pa.Table.from_pylist(rows, schema=D3))
    real = [{"id": name, "status": "ok", "bytes": image(rng)} for name in ids]
    table = pa.Table.from_pylist([{field: row.get(field) for field in REAL_IMAGES.names} for row in real], schema=REAL_IMAGES)
    storage.write_table(f"{folder}/real/0.parquet", table, row_group_size=16)
    return len(ids)


def test_index_lookup_and_reading_take_what_they_need(server: S3Server) -> None:
    records = write_records(server.bucket)
    server.counts()
    source = D3Source(f"{server.bucket}/records", f"{server.bucket}/real")
    index = source.index()
    read = server.counts()
    assert index.num_rows == records
    assert read.bytes_read < 3 * 70_000  # footers, which are read with the 64 KiB around them, and ids
    assert len(read.requests) < 3 * 9

    real = RealImages(f"{server.bucket}/real")
    server.counts()
    assert len(real.lookup(index["record_id"].to_pylist()[:16])) == 16  # one row group
    assert server.counts().bytes_read < 1.2 * 16 * IMAGE_BYTES + 70_000

    tables = list(source.reader(index.slice(0, ROWS)))
    assert sum(table.num_rows for table in tables) == ROWS
    assert server.counts().bytes_read < 1.2 * ROWS * (1 + NUM_GENERATED) * IMAGE_BYTES


def test_resuming_and_finishing_leave_the_features_unread(server: S3Server, tmp_path: Path) -> None:
    from synthetic import write_features

    local = write_features(tmp_path / "features", records=3_000, images=3)
    output = f"{server.bucket}/features"
    for file in Path(local).rglob("*.*"):
        storage.write_bytes(f"{output}/{file.relative_to(local)}", file.read_bytes())
    begun = f"{server.bucket}/begun"
    for number in range(40):
        keys = pa.table({"key": [f"k{number}-{row}" for row in range(100)]})
        storage.write_table(f"{begun}/{WORK}/checkpoint/{number:06d}.parquet", keys)
        storage.write_bytes(f"{begun}/data/{number:06d}-0.parquet", b"of which only the name is read")
    server.counts()
    assert len(committed_keys(begun)) == 4_000
    commits = server.counts()
    assert len(commits.requests) <= 2 * 40 + 12  # its size and its bytes, and two listings
    assert commits.bytes_read < 40 * 4_000

    files = [file.path for file in storage.list_files(f"{output}/data")]
    size = sum(file.size for file in storage.list_files(f"{output}/data"))
    server.counts()
    read_described(files)
    assert server.counts().bytes_read < 0.2 * size
    table = FeatureTable.load(output)
    assert len(table) == 9_000
    assert server.counts().bytes_read < 1.2 * size


def test_rewriting_to_larger_files_reads_the_features_about_once(server: S3Server, tiny_model: str) -> None:
    config = override(Config(), {"clip.model": tiny_model})
    options, output, rng = parquet_options(config), f"{server.bucket}/features", np.random.default_rng(0)
    schema, per_commit, commits = options["schema"], 25, 12
    rows = list(range(per_commit * commits))
    index = make_index(
        {"key": [f"k{row}" for row in rows], "source": ["f"] * len(rows), "row": rows, "rows": [[r] for r in rows]}
    )
    for number in range(commits):
        of_commit = rows[number * per_commit : (number + 1) * per_commit]
        values = [{"key": f"k{row}", "generators": ["real"], "projected": rng.bytes(4000)} for row in of_commit]
        table = pa.Table.from_pylist([{name: value.get(name) for name in schema.names} for value in values], schema=schema)
        storage.write_table(f"{output}/data/run_{number:06d}-0.parquet", table)
        storage.write_table(f"{output}/{WORK}/checkpoint/run_{number:06d}.parquet", table.select(["key"]))
    size = sum(file.size for file in storage.list_files(f"{output}/data"))
    plan = plan_compaction(check(config, index, output), index, output, file_bytes=size // 3)
    server.counts()
    for file in plan.files:
        write_new_file(file, index["key"], output, options, plan.rows_per_group)
    assert server.counts().bytes_read < 1.2 * size
    delete_sources(plan, output)
    assert [table.num_rows for table in check(config, index, output, plan.names).values()] == [100, 100, 100]
