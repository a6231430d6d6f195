"""Embedding on Ray Data: read -> attach real image -> decode on CPUs -> CLIP on an actor pool -> write.

How it restarts. The index (a pass over the ids alone) names every record by a key that is unique by construction. Ray Data's
checkpoint commits each written file in two phases, with the keys in it. A started-again run reads the committed keys on the
driver and makes tasks for the others only, so that nothing done is read again; Ray's own filter, an actor that takes a CPU
and reads everything once more, is not needed (on two CPUs it would wait for ever).
"""

import errno
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager

from rdd import storage
from rdd.clip import ClipEncoder, EncoderIdentity, Preprocessor
from rdd.clip_weights import check_tower_for_text, located
from rdd.config import ClipConfig, Config
from rdd.config.stages import EMBED
from rdd.data.open import Source, open_source
from rdd.data.records import Reader
from rdd.embedding.output import finish, parquet_options, summarize
from rdd.embedding.resume import WORK, committed_keys, keep_index
from rdd.embedding.steps import Progress, RecordDecoder, RecordEncoder
from rdd.embedding.stored import stored_features
from rdd.on_ray.background import root_cause
from rdd.on_ray.embedding_progress import Report, run_watched, start_ledger
from rdd.on_ray.session import ray_session
from rdd.progress import StallClock
from rdd.runs.stage import begun, finished

logger = logging.getLogger(__name__)

STEPS = ("read", "decode", "encode")


def run_embedding(config: Config) -> dict[str, Any]:
    """Embed the records of a config; started again, it goes on; finished, it says what there is.

    Returns:
        ``output``, ``records_in``, ``records_written``, ``records_quarantined``, ``quarantined`` by reason, ``images``.

    Raises:
        ValueError: the request is wrong; nothing has been written.
        RuntimeError: the work failed, stalled, or more than ``embed.max_quarantined_share`` was quarantined.
    """
    output = storage.absolute(config.embed.output)
    if (manifest := finished(EMBED, config)) is not None:  # needs neither records nor weights, which may be gone
        return summarize(output, manifest)
    request, embed = config, config.embed
    config = replace(config, clip=replace(config.clip, pretrained=located(config.clip.pretrained)))
    features = stored_features(config)  # refuses blocks that the model has not
    source = open_source(config.records)
    _check_text(config, source)
    logger.info("reading the ids of the records")
    index = source.index()
    bundles = [{"CPU": embed.cpus_per_worker, "GPU": embed.gpus_per_worker}] * embed.num_workers
    bundles.append({"CPU": embed.cpus_per_task})
    knobs = "embed.num_workers, embed.cpus_per_worker or embed.gpus_per_worker"
    with ray_session(config.cluster, bundles, knobs=knobs):
        encoder = _identify(config)  # the last refusal: from here on the directory is this run's
        with begun(EMBED, request) as stage:
            keep_index(index, encoder, features, output)
            _embed_missing(config, source, index, output, encoder)
            manifest = finish(config, index, output, encoder)
            summary = summarize(output, manifest)
            numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
            stage.tracker.metrics(numbers, step=0)
            stage.finish(manifest)
            storage.delete_directory(storage.join(output, WORK))
    return summary


def _check_text(config: Config, source: Source) -> None:
    if not config.embed.text:
        return
    if not source.has_text:
        raise ValueError(f"embed.text must be false, since {config.records.path} has no prompts")
    check_tower_for_text(config.clip)


def _embed_missing(config: Config, source: Source, index: pa.Table, output: str, encoder: EncoderIdentity) -> None:
    embed = config.embed
    committed = committed_keys(output)
    missing = index.filter(pc.invert(pc.is_in(index["key"], value_set=committed)))
    logger.info(
        "%d of %d records to embed; commits of %d records, so that a killed run does about so many a worker again",
        missing.num_rows,
        index.num_rows,
        embed.records_per_commit,
    )
    if not missing.num_rows:
        return
    ledger = start_ledger()
    started = time.monotonic()
    try:
        run_watched(
            functools.partial(_write, config, source, missing, output, encoder, Report(ledger)),
            ledger,
            steps=STEPS,
            total=index.num_rows,
            done=index.num_rows - missing.num_rows,
            clock=StallClock(stall_timeout_s=embed.stall_timeout_s, start_timeout_s=config.cluster.start_timeout_s),
        )
    except RuntimeError as error:
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise RuntimeError(
            f"a disk is full while {output} is written ({error}); make room and start the same command again"
        ) from error
    rate = missing.num_rows / (time.monotonic() - started)
    again = embed.records_per_commit * embed.num_workers / rate
    logger.info("%.2f records a second; a kill would have cost about %.0f s of work", rate, again)


def _identify(config: Config) -> EncoderIdentity:
    """Load the encoder once where it will run, so that a wrong request fails before any work."""
    embed = config.embed
    task = ray.remote(num_cpus=embed.cpus_per_worker, num_gpus=embed.gpus_per_worker, max_retries=0)(_load_identity)
    try:
        return ray.get(task.remote(config.clip), timeout=config.cluster.start_timeout_s)
    except ray.exceptions.GetTimeoutError as error:
        limit = config.cluster.start_timeout_s
        raise RuntimeError(f"the encoder was not loaded within {limit:g} s; raise cluster.start_timeout_s") from error
    except ray.exceptions.RayError as error:
        raise root_cause(error) from error


def _load_identity(config: ClipConfig) -> EncoderIdentity:
    return ClipEncoder.from_config(config).identity


class _FilteredOnDriver(IdColumnCheckpointManager):
    """Ray Data's checkpoint without its filter: the tasks hold no committed record. Half-written files are still deleted."""

    def load_checkpoint(self, data_file_dir: str | None = None, data_file_filesystem: Any = None) -> tuple[None, int]:
        self._clean_pending_checkpoints(data_file_dir, data_file_filesystem)
        return None, 0


class _Records(Datasource):
    """Read tasks over slices of the index, each of one file."""

    def __init__(self, source: Source, index: pa.Table, records_per_task: int, progress: Progress) -> None:
        super().__init__()
        self._reader = ray.put(source.reader)  # once for all tasks: the index of real images can be large
        self._slices = list(_slices(index, records_per_task))
        self._progress = progress

    def __len__(self) -> int:
        return len(self._slices)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        del parallelism, data_context  # a task is a slice, whatever Ray would like
        return [
            ReadTask(
                functools.partial(_read, self._reader, rows, self._progress),
                BlockMetadata(num_rows=rows.num_rows, size_bytes=None, input_files=None, exec_stats=None),
                per_task_row_limit=per_task_row_limit,
            )
            for rows in self._slices
        ]


def _read(reader: "ray.ObjectRef[Reader]", rows: pa.Table, progress: Progress) -> Iterator[pa.Table]:
    for table in ray.get(reader)(rows):
        progress("read", table.num_rows)
        yield table


def _slices(index: pa.Table, size: int) -> Iterator[pa.Table]:
    """Consecutive rows of one source, ``size`` at most."""
    sources = index["source"].to_pylist()
    start = 0
    for row in range(1, len(sources) + 1):
        if row == len(sources) or sources[row] != sources[start] or row - start == size:
            yield index.slice(start, row - start).combine_chunks()
            start = row


def _write(
    config: Config, source: Source, missing: pa.Table, output: str, encoder: EncoderIdentity, progress: Progress
) -> None:
    """The graph itself."""
    embed = config.embed
    fs, folder = storage.filesystem(storage.join(output, WORK, "checkpoint"))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.checkpoint_config = CheckpointConfig(
        id_column="key",
        checkpoint_path=folder,
        override_filesystem=fs,
        delete_checkpoint_on_success=False,  # the manifest comes later, and a kill between would begin again
        checkpoint_manager_cls=_FilteredOnDriver,
    )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures come as exceptions
    records = _Records(source, missing, embed.records_per_task, progress)
    decode = _decode_with(config, progress)
    data_fs, data_folder = storage.filesystem(storage.join(output, "data"))
    cpu_task = {"num_cpus": embed.cpus_per_task}
    (
        ray.data.read_datasource(records, override_num_blocks=len(records), **cpu_task)
        .map_batches(decode, batch_size=None, batch_format="pyarrow", **cpu_task)
        .map_batches(
            RecordEncoder,
            fn_constructor_args=(config.clip,),
            fn_constructor_kwargs={"text": embed.text, "threads": embed.threads_per_worker, "progress": progress},
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=embed.num_workers),
            num_cpus=embed.cpus_per_worker,
            num_gpus=embed.gpus_per_worker,
        )
        .write_parquet(
            data_folder,
            filesystem=data_fs,
            min_rows_per_file=embed.records_per_commit,
            **parquet_options(config),
            ray_remote_args=cpu_task,
        )
    )


def _decode_with(config: Config, progress: Progress) -> Callable[[pa.Table], pa.Table]:
    """The decoder as the function that Ray Data fuses with the reading."""
    preprocessor = Preprocessor(config.clip.model, config.clip.pretrained)
    decoder = RecordDecoder(preprocessor, max_pixels=config.records.max_pixels, text=config.embed.text, progress=progress)
    return lambda table: decoder(table)
