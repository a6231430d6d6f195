"""Embedding: the stage around the graph of :mod:`rdd.on_ray.embedding_graph`.

How it restarts. The index (a pass over the ids alone) names every record by a key that is unique by construction. Ray Data's
checkpoint commits each written file in two phases, with the keys in it. A started-again run reads the committed keys on the
driver and makes tasks for the others only, so that nothing done is read again.

Tasks that read, decode and write import neither torch nor open_clip, and nor does the driver where the files of the weights
tell which encoder they are.
"""

import functools
import logging
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from rdd import storage
from rdd.clip_identity import identity_of_files
from rdd.clip_weights import check_tower_for_text
from rdd.config import ClipConfig, Config
from rdd.config.stages import EMBED
from rdd.data.degrade import Degrader
from rdd.data.open import Source
from rdd.embedding.compact import plan_compaction, planned
from rdd.embedding.decoder import RecordDecoder
from rdd.embedding.output import check, describe, parquet_options, summarize
from rdd.embedding.reopen import has_lost_files, reopen
from rdd.embedding.request import read_request
from rdd.embedding.resume import WORK, keep_index
from rdd.embedding.stored import Stored, stored_features
from rdd.encoder_identity import EncoderIdentity
from rdd.on_ray.compaction import compact
from rdd.on_ray.embedding_graph import Sizes, Steps, sizes_of, write_features
from rdd.on_ray.embedding_progress import Report
from rdd.on_ray.embedding_run import run_missing
from rdd.on_ray.session import ray_session
from rdd.preprocessing import Preprocessor
from rdd.runs.stage import begun, finished
from rdd.tokens import PromptTokenizer

logger = logging.getLogger(__name__)


def run_embedding(config: Config) -> dict[str, Any]:
    """Embed the records of a config; started again, it goes on; finished, it says what there is.

    A finished embedding that has lost a file goes on as well.

    Returns:
        ``output``, ``records_in``, ``records_written``, ``records_quarantined``, ``quarantined`` by reason, ``images``.

    Raises:
        ValueError: the request is wrong; nothing has been written.
        RuntimeError: the work failed, stalled, or more than ``embed.max_quarantined_share`` was quarantined.
    """
    output = storage.absolute(config.embed.output)
    manifest = finished(EMBED, config)
    if manifest is not None and not has_lost_files(output, manifest):  # needs neither records nor weights, which may be gone
        return summarize(output, manifest)
    request, asked = config, read_request(config)
    config, embed = asked.config, asked.config.embed
    if embed.text:
        check_tower_for_text(config.clip)
    bundles = [{"CPU": embed.cpus_per_worker, "GPU": embed.gpus_per_worker}] * embed.num_workers
    bundles.append({"CPU": embed.cpus_per_task})
    knobs = "embed.num_workers, embed.cpus_per_worker or embed.gpus_per_worker"
    with ThreadPoolExecutor(1) as beside:
        told = beside.submit(_encoder_of, config)
        with ray_session(config.cluster, bundles, knobs=knobs):
            encoder, features = told.result()  # the last refusal: from here on the directory is this run's
            return _embed(request, config, asked.source, asked.index, encoder, features)


def _embed(
    request: Config, config: Config, source: Source, index: pa.Table, encoder: EncoderIdentity, features: Stored
) -> dict[str, Any]:
    """The work itself.

    Args:
        request: as it was given, which the output directory keeps.
        config: the same, with paths as every process understands them.
        source: the records.
        index: of all of them.
        encoder: which one.
        features: what is stored of it.
    """
    output = storage.absolute(config.embed.output)
    with begun(EMBED, request) as stage:
        reopen(index, output)
        keep_index(index, encoder, features, output)
        if planned(output) is None:  # else all was embedded, and the files of the commits are going
            run_missing(
                index,
                output,
                config.embed,
                sizes=functools.partial(_sizes, config, source, encoder),
                write=functools.partial(_write, config, source, encoder, output),
                start_timeout_s=config.cluster.start_timeout_s,
                tracker=stage.tracker,
            )
        tables = _check_and_compact(config, index, output)
        manifest = describe(config, tables, encoder)
        summary = summarize(output, manifest)
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        stage.tracker.metrics(numbers, step=index.num_rows)
        stage.finish(manifest)
        storage.delete_directory(storage.join(output, WORK))
    return summary


def _check_and_compact(config: Config, index: pa.Table, output: str) -> dict[str, pa.Table]:
    """The committed files as they stay: checked, rewritten to files of the stated size, and checked once more.

    Returns:
        Of :func:`rdd.embedding.output.check`.
    """
    plan = planned(output)
    if plan is None:
        tables = check(config, index, output)
        if not config.embed.file_mib:
            return tables
        plan = plan_compaction(tables, index, output, file_bytes=config.embed.file_mib * 2**20)
    compact(plan, index, output, config)
    return check(config, index, output, plan.names)


def _sizes(config: Config, source: Source, encoder: EncoderIdentity, missing: pa.Table) -> Sizes:
    preprocessor = Preprocessor(encoder.preprocessing)
    rows = pc.mean(pc.list_value_length(missing["rows"])).as_py() or 1.0
    return sizes_of(
        config.embed,
        records=missing.num_rows,
        images_per_record=source.images_per_row * rows,
        batch_size=config.clip.batch_size,
        pixel_bytes=preprocessor.height * preprocessor.width * 3 * (1 + config.embed.views),
        cpus=ray.cluster_resources().get("CPU", 1.0),
    )


def _encoder_of(config: Config) -> tuple[EncoderIdentity, Stored]:
    """Which encoder it is, found out beside the start of Ray, so that a wrong request fails before any work."""
    features = stored_features(config)  # refuses blocks that the model has not
    encoder = identity_of_files(config.clip) or _loaded_identity(config.clip)
    if config.embed.beside:
        from rdd.embedding.beside import check_same_encoder

        check_same_encoder(config, encoder)
    return encoder, features


def _loaded_identity(clip: ClipConfig) -> EncoderIdentity:
    from rdd.clip import ClipEncoder  # and with it torch, which takes seconds

    return ClipEncoder.from_config(replace(clip, device="cpu", precision="fp32", compile=False)).identity


def _write(
    config: Config, source: Source, encoder: EncoderIdentity, output: str, missing: pa.Table, sizes: Sizes, progress: Report
) -> None:
    """Run the graph on what is missing."""
    embed = config.embed
    arguments = {
        "config": config.clip,
        "text": embed.text,
        "views": embed.views,
        "threads": embed.threads_per_worker,
        "expected": encoder,
        "progress": progress,
    }
    decode = _decoder(config, encoder, progress)
    steps = Steps(read=source.reader, decode=decode, encoder=_Encoder, arguments=arguments, progress=progress)
    write_features(missing, steps, output, embed, sizes, parquet_options(config))


def _decoder(config: Config, encoder: EncoderIdentity, progress: Report) -> Callable[[pa.Table], pa.Table]:
    """The decoder, which runs in the tasks that read; as a function, so that it is pickled whole."""
    tokenizer = PromptTokenizer(config.clip.model) if config.embed.text else None
    preprocessor = Preprocessor(encoder.preprocessing)
    embed = config.embed
    decoder = RecordDecoder(
        preprocessor,
        tokenizer,
        degrader=Degrader(embed.degrade, seed=embed.degrade_seed),
        views=[Degrader(embed.view_degrade, seed=embed.degrade_seed + view) for view in range(1, 1 + embed.views)],
        max_pixels=config.records.max_pixels,
        progress=progress,
    )
    return lambda table: decoder(table)


class _Encoder:
    """The encoder of one process of the pool.

    Args:
        config: of the encoder.
        text: whether prompts are encoded.
        views: of each image.
        threads: torch threads on a CPU; Ray would leave a worker one.
        expected: what the encoder must be.
        progress: told when it is loaded (step ``load``), and of each table.

    Raises:
        RuntimeError: the encoder is another one here, such as other weights under the same name.
    """

    def __init__(
        self, config: ClipConfig, *, text: bool, views: int, threads: int, expected: EncoderIdentity, progress: Report
    ) -> None:
        import torch  # which only the processes of the pool need

        from rdd.clip import ClipEncoder
        from rdd.embedding.encoder import RecordEncoder

        torch.set_num_threads(threads)
        encoder = ClipEncoder.from_config(config)
        if encoder.identity != expected:
            raise RuntimeError(
                f"the encoder on {platform.node()} is {encoder.identity}, and where the job began it is {expected}; "
                "put the same weights there"
            )
        encoder.prepare(config.features)
        self._encode = RecordEncoder(encoder, config, text=text, views=views, progress=progress)
        self._progress, self._name = progress, f"{platform.node()} {os.getpid()}"
        progress("load", 1)  # ends the time to start: from now on the stall limit applies

    def __call__(self, table: pa.Table) -> pa.Table:
        encoded = self._encode(table)
        self._progress("reject", pc.count(encoded["reason"]).as_py())
        self._progress.use(self._name, self._encode.clock.use())
        return encoded
