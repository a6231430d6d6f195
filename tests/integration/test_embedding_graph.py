"""The graph of an embedding with steps of no cost: how its work is cut, its pool, and what its processes import."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray import cloudpickle

from rdd.config import EmbedConfig
from rdd.data.index import make_index
from rdd.on_ray.embedding_graph import Sizes, Steps, _Records, ranges_of, regrouped, sizes_of, write_features

pytestmark = pytest.mark.timeout(200)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can not import a test


def index_of(records: int, *, sources: int = 1) -> pa.Table:
    rows = list(range(records))
    source = [f"s{row * sources // records}" for row in rows]
    return make_index({"key": [f"k{row}" for row in rows], "source": source, "row": rows, "rows": [[row] for row in rows]})


def read(index: pa.Table) -> Iterator[pa.Table]:
    for row in range(0, index.num_rows, 2):
        yield index.slice(row, 2).select(["key", "source"])


def decode(table: pa.Table) -> pa.Table:
    pixels = pa.array([bytes(1000)] * table.num_rows)
    pids = pa.array([os.getpid()] * table.num_rows)
    return table.append_column("pixels", pixels).append_column("decoded_in", pids)


class Encoder:
    """Notes its process, and how many records it was given at once."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds

    def __call__(self, table: pa.Table) -> pa.Table:
        time.sleep(self._seconds)
        given = {"encoded_in": [os.getpid()] * table.num_rows, "at_once": [table.num_rows] * table.num_rows}
        return pa.table({name: table[name] for name in ("key", "source", "decoded_in")} | given)


def ignored(step: str, count: int) -> None:
    """No progress is shown."""


def written(folder: Path, index: pa.Table, sizes: Sizes, config: EmbedConfig, **arguments: Any) -> list[dict[str, Any]]:
    steps = Steps(read=read, decode=decode, encoder=Encoder, arguments=arguments, progress=ignored)
    write_features(index, steps, str(folder), config, sizes, {})
    rows = [row for file in (folder / "data").glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    assert sorted(row["key"] for row in rows) == sorted(index["key"].to_pylist())
    return rows


def at_once(rows: list[dict[str, Any]]) -> Counter:
    """How many tables of each size the encoder was given."""
    counts = Counter(row["at_once"] for row in rows)
    return Counter({size: number // size for size, number in counts.items()})


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (32, {8: 12}),  # a task is cut to forward passes
        (2, {8: 12}),  # small tasks are bundled
        (3, {6: 16}),
        (24, {8: 12}),
    ],
)
def test_the_encoder_is_given_whole_forward_passes_whatever_the_tasks(
    ray_session, tmp_path: Path, task: int, expected: dict[int, int]
) -> None:
    sizes = Sizes(task=task, forward_pass=8, commit=40, block_bytes=int(0.7 * 8000))
    rows = written(tmp_path, index_of(96), sizes, EmbedConfig(cpus_per_worker=0.5, cpus_per_task=0.5))
    assert at_once(rows) == Counter(expected)
    assert not {row["decoded_in"] for row in rows} & {row["encoded_in"] for row in rows}  # though both ask for half a CPU
    committed = Counter(file.name for file in (tmp_path / "data").glob("*.parquet"))
    assert len(committed) >= 4  # of 20 records and more


@pytest.mark.slow
def test_a_pool_grows_while_work_waits(ray_session, tmp_path: Path) -> None:
    sizes = Sizes(task=8, forward_pass=8, commit=400, block_bytes=5600)
    config = EmbedConfig(num_workers=3, min_workers=1, cpus_per_worker=0.3, cpus_per_task=0.5)
    rows = written(tmp_path, index_of(480), sizes, config, seconds=0.4)
    assert len({row["encoded_in"] for row in rows}) > 1


def test_a_task_is_a_kilobyte_whatever_the_number_of_records(ray_session) -> None:
    steps = Steps(read=read, decode=decode, encoder=Encoder, arguments={}, progress=ignored)
    records = _Records(steps, index_of(5_000), Sizes(task=50, forward_pass=10, commit=40, block_bytes=1))
    tasks = records.get_read_tasks(1)
    assert len(tasks) == len(records) == 100
    assert len(cloudpickle.dumps(tasks[0].read_fn)) < 1500
    assert ray.is_initialized()


def test_sizes_follow_from_the_work_and_the_cluster() -> None:
    def sizes(records: int, images: float, batch_size: int, cpus: float, **config: Any) -> tuple[int, int, int]:
        work = {"records": records, "images_per_record": images, "batch_size": batch_size, "pixel_bytes": 10, "cpus": cpus}
        found = sizes_of(EmbedConfig(**config), **work)
        return found.task, found.bundle, found.commit

    assert sizes(1760, 1.0, 64, 2.0) == (256, 64, 256)  # at least four tasks a CPU, of whole forward passes
    assert sizes(2_300_000, 5.0, 256, 96.0, num_workers=8) == (561, 51, 1632)  # some 2,560 images a task
    assert sizes(12, 5.0, 256, 2.0) == (51, 51, 204)
    assert sizes(12, 5.0, 4, 2.0) == (2, 1, 4)
    assert sizes(100, 1.0, 64, 2.0, records_per_task=10, records_per_commit=7) == (10, 60, 7)
    assert sizes(100, 1.0, 64, 2.0, records_per_task=64) == (64, 64, 256)


def test_ranges_end_where_a_source_ends() -> None:
    assert list(ranges_of(pa.chunked_array([["a", "a", "a"], ["a", "b"]]), 3)) == [(0, 3), (3, 4), (4, 5)]
    assert list(ranges_of(pa.chunked_array([pa.array([], pa.string())]), 3)) == []


def test_regrouped_tables_hold_the_same_rows() -> None:
    numbers = pa.table({"n": list(range(10))})
    tables = [numbers.slice(start, length) for start, length in ((0, 1), (1, 7), (8, 0), (8, 2))]
    parts = [part["n"].to_pylist() for part in regrouped(tables, 3)]
    assert parts == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
