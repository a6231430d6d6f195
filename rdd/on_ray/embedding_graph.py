"""The graph of an embedding on Ray Data: read and decode on CPUs -> encode on an actor pool -> write, in two-phase commits.

Tasks name rows of one index that lies in the object store, so that a task is a kilobyte whatever a record weighs. The encoder
is fed whole forward passes, whatever the size of a task: a large one cuts what it decodes to them, small ones are bundled. A
committed file holds the keys of its records; tasks are made for the others only, so Ray Data's own filter, an actor that takes
a CPU and reads everything once more, is not needed (on two CPUs it would wait for ever).
"""

import functools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager

from rdd import storage
from rdd.config import EmbedConfig
from rdd.data.records import Reader
from rdd.embedding.request import records_in_pass
from rdd.embedding.resume import WORK
from rdd.on_ray.encoder_placement import leaves_room_after_a_loss, leaves_room_to_read

logger = logging.getLogger(__name__)

Step = Callable[[pa.Table], pa.Table]

_THREADS = 2
"""Of an encoder's process: one hands the next images over while the other waits for the features of those before."""
_IN_FLIGHT = 4
"""Batches that wait for an encoder or are in it; below 1.75 for each thread Ray Data would never make its pool grow."""
_MAX_IMAGES_PER_TASK = 2560
_MIN_TASKS_PER_CPU = 4
_FORWARD_PASSES_PER_COMMIT = 4


@dataclass(frozen=True)
class Sizes:
    """How the work is cut, in records."""

    task: int
    """Read and decoded by one task."""
    forward_pass: int
    """Encoded at once."""
    commit: int
    """Encoded at most before they are committed; what a kill costs."""
    block_bytes: int
    """At which Ray Data hands decoded images over: somewhat below one forward pass, which then is not waited for."""

    @property
    def bundle(self) -> int:
        """Records that Ray Data hands to an encoder together: one forward pass, or as many whole tasks as fit in one."""
        return self.forward_pass if self.task >= self.forward_pass else self.forward_pass // self.task * self.task


def sizes_of(
    config: EmbedConfig, *, records: int, images_per_record: float, batch_size: int, pixel_bytes: int, cpus: float
) -> Sizes:
    """Sizes that the config leaves open, from those of the work and of the cluster.

    Args:
        config: its ``records_per_task`` and ``records_per_commit``, 0 where they are open.
        records: left to embed.
        images_per_record: on average.
        batch_size: images in a forward pass.
        pixel_bytes: of one image as the encoder takes it.
        cpus: of the cluster.
    """
    forward_pass = records_in_pass(batch_size, images_per_record)
    task = config.records_per_task
    if not task:
        balanced = math.ceil(records / (_MIN_TASKS_PER_CPU * max(1.0, cpus)))
        largest = max(1, int(_MAX_IMAGES_PER_TASK / images_per_record))
        task = math.ceil(min(balanced, largest) / forward_pass) * forward_pass
    commit = config.records_per_commit or _FORWARD_PASSES_PER_COMMIT * forward_pass * config.num_workers
    return Sizes(task, forward_pass, commit, int(0.7 * forward_pass * images_per_record * pixel_bytes))


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What the graph runs; picklable."""

    read: Reader
    decode: Step
    encoder: Callable[..., Step]
    """A class; an instance of it lives in each actor of the pool."""
    arguments: Mapping[str, Any]
    """Of the class."""
    progress: Callable[[str, int], None]
    """Told how many records were read."""


def write_features(
    index: pa.Table,
    steps: Steps,
    output: str,
    config: EmbedConfig,
    sizes: Sizes,
    options: Mapping[str, Any],
    *,
    section: str = "embed",
) -> None:
    """Run the graph to its end.

    Args:
        index: the records to embed (``schema.INDEX``).
        steps: what to do with them.
        output: directory to write ``data/`` in.
        config: pool sizes and resources.
        sizes: how the work is cut.
        options: of ``pyarrow.parquet.write_table``.
        section: of the settings that pool sizes and resources come from, for the log.
    """
    fs, folder = storage.filesystem(storage.join(output, WORK, "checkpoint"))
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = sizes.block_bytes
    context.checkpoint_config = CheckpointConfig(
        id_column="key",
        checkpoint_path=folder,
        override_filesystem=fs,
        delete_checkpoint_on_success=False,  # the manifest comes later, and a kill between would begin again
        checkpoint_manager_cls=_FilteredOnDriver,
    )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures come as exceptions
    _warn_of_full_nodes(config, section)
    records = _Records(steps, index, sizes)
    data_fs, data_folder = storage.filesystem(storage.join(output, "data"))
    cpu_task = {"num_cpus": config.cpus_per_task}
    with ray.data.DataContext.current(context):
        (
            ray.data.read_datasource(records, override_num_blocks=len(records), **cpu_task)
            .map_batches(
                steps.encoder,
                fn_constructor_kwargs=dict(steps.arguments),
                batch_size=sizes.bundle,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(
                    min_size=config.min_workers or config.num_workers,
                    max_size=config.num_workers,
                    max_tasks_in_flight_per_actor=_IN_FLIGHT,
                    max_concurrent_calls_per_actor=_THREADS,
                ),
                num_cpus=config.cpus_per_worker,
                num_gpus=config.gpus_per_worker,  # and spread by Ray Data: each with the CPUs and the network of its node
            )
            .write_parquet(
                data_folder,
                filesystem=data_fs,
                min_rows_per_file=math.ceil(sizes.commit / 2),  # as many again may be waiting for this to be written
                **options,
                ray_remote_args=cpu_task,
            )
        )


def _warn_of_full_nodes(config: EmbedConfig, section: str) -> None:
    nodes = ray.nodes()
    if not leaves_room_to_read(config, nodes):
        full = "no node has the CPUs to read beside its encoders, so nothing is read until the cluster grows"
    elif not leaves_room_after_a_loss(config, nodes):
        full = "if a node is lost, its encoders fill the others, and nothing is read until it is back"
    else:
        return
    knobs = " or ".join(f"{section}.{name}" for name in ("cpus_per_worker", "cpus_per_task", "num_workers"))
    logger.warning("%s; lower %s", full, knobs)


class _FilteredOnDriver(IdColumnCheckpointManager):
    """Ray Data's checkpoint without its filter: the tasks hold no committed record. Half-written files are still deleted."""

    def load_checkpoint(self, data_file_dir: str | None = None, data_file_filesystem: Any = None) -> tuple[None, int]:
        self._clean_pending_checkpoints(data_file_dir, data_file_filesystem)
        return None, 0


class _Records(Datasource):
    """Tasks that read and decode rows of the index, each of one source.

    Decoding is no stage of its own: without a GPU Ray Data might fuse that with the encoder, and decode in its process.
    """

    def __init__(self, steps: Steps, index: pa.Table, sizes: Sizes) -> None:
        super().__init__()
        self._forward_pass = sizes.forward_pass
        self._shared = ray.put((steps.read, steps.decode, index.combine_chunks(), steps.progress))
        self._ranges = list(ranges_of(index["source"], sizes.task))

    def __len__(self) -> int:
        return len(self._ranges)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        del parallelism, data_context  # a task is a range of rows, whatever Ray would like
        return [
            ReadTask(
                functools.partial(_read, self._shared, start, stop, self._forward_pass),
                BlockMetadata(num_rows=stop - start, size_bytes=None, input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for start, stop in self._ranges
        ]


def _read(shared: "ray.ObjectRef[Any]", start: int, stop: int, forward_pass: int) -> Iterator[pa.Table]:
    """Rows of the index, read and decoded, in tables of one forward pass, as equal as can be."""
    read, decode, index, progress = ray.get(shared)
    passes = math.ceil((stop - start) / forward_pass)

    def decoded() -> Iterator[pa.Table]:
        for table in read(index.slice(start, stop - start)):
            progress("read", table.num_rows)
            yield decode(table)

    return regrouped(decoded(), math.ceil((stop - start) / passes))


def regrouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The rows of some tables in tables of ``rows`` rows; the last one may have fewer."""
    kept: list[pa.Table] = []
    for table in tables:
        kept.append(table)
        while sum(part.num_rows for part in kept) >= rows:
            whole = pa.concat_tables(kept)
            yield whole.slice(0, rows)
            kept = [whole.slice(rows)] if whole.num_rows > rows else []
    if kept:
        yield pa.concat_tables(kept)


def ranges_of(sources: pa.ChunkedArray, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive rows of one source, ``size`` at most, as (start, stop)."""
    ends = pc.run_end_encode(sources.combine_chunks()).run_ends.to_numpy() if len(sources) else np.empty(0, dtype=np.int64)
    begin = 0
    for end in ends.tolist():
        yield from ((start, min(start + size, end)) for start in range(begin, end, size))
        begin = end
