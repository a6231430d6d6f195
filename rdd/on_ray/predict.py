"""Answers for many images on Ray Data: the graph of an embedding with other steps, and its way to go on after a kill.

Read and decode on CPUs -> answer on an actor pool -> write, committed in two phases on keys that are unique by construction.
"""

import argparse
import functools
import logging
import os
import platform
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from rdd import storage
from rdd.config import Config, EmbedConfig, PredictConfig
from rdd.config.fetch import FetchConfig
from rdd.config.parse import override
from rdd.config.stages import PREDICT
from rdd.data.unlabelled import UnlabelledSource
from rdd.detector import Detector
from rdd.detector_identity import encoder_identity_of
from rdd.embedding.resume import WORK, check_index, committed_files, read_tables
from rdd.known_weights import find_weights
from rdd.on_ray.embedding_graph import Sizes, Steps, sizes_of, write_features
from rdd.on_ray.embedding_progress import Report
from rdd.on_ray.embedding_run import run_missing
from rdd.on_ray.session import ray_session
from rdd.runs.stage import begun, finished
from rdd.serving.predictor import Predictor, bands_of
from rdd.serving.prepare import Preparer
from rdd.serving.steps import KEYED_ROWS, AnswerStep, PrepareStep
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

_LEAST_COMMITS = 2000
"""Commits of a long run, at least, each of which becomes a file."""

_KNOBS = "predict.num_workers, predict.cpus_per_worker or predict.gpus_per_worker"


def predict_many(arguments: argparse.Namespace, fetch: FetchConfig | None) -> dict[str, Any]:
    """What ``rdd predict`` asks for, where that is too much for one process: returns as :func:`run_prediction`."""
    settings = {
        "predict.images": arguments.images,
        "predict.allow_urls": fetch is not None,
        "fetch.contact": arguments.contact,
        "predict.gpus_per_worker": 1.0 if arguments.device == "cuda" else 0.0,
        "tracking.enabled": False,
    }
    same = ("output", "detector", "weights", "caption", "device", "precision", "batch_size", "max_pixels")
    return run_prediction(override(Config(), settings | {f"predict.{name}": getattr(arguments, name) for name in same}))


def run_prediction(config: Config) -> dict[str, Any]:
    """Answer the images of a config; started again, it goes on; finished, it says what there is.

    Returns:
        ``output``, ``images``, ``answered``, ``unreadable``, ``unreadable_by_reason``, ``verdicts``, ``model_version``.

    Raises:
        ValueError: the request is wrong; nothing has been written.
        RuntimeError: the work failed or stalled.
    """
    output, result = storage.absolute(config.predict.output), finished(PREDICT, config)
    detector = Detector.load(config.predict.detector)
    if result is not None:
        if (before := result["model_version"]) != detector.version:
            raise ValueError(
                f"predict.output must be a directory of its own for each detector: {output} holds the answers of "
                f"{before[:12]}..., got {detector.version[:12]}..."
            )
        return {"output": output, **result}
    bands_of(detector)  # refuses one without them
    weights = find_weights(detector.encoder_identity, config.predict.weights)
    source = UnlabelledSource(config.predict.images, caption=config.predict.caption, fetch=_fetching(config))
    pool = _pool(config.predict)
    bundles = [{"CPU": pool.cpus_per_worker, "GPU": pool.gpus_per_worker}] * pool.num_workers
    with ray_session(config.cluster, [*bundles, {"CPU": pool.cpus_per_task}], knobs=_KNOBS):
        return _predict(config, source, detector, weights, pool)


def _predict(config: Config, source: UnlabelledSource, detector: Detector, weights: str, pool: EmbedConfig) -> dict[str, Any]:
    index = source.index()
    with begun(PREDICT, config) as stage:
        _keep(index, detector.version, stage.output)
        _answer_missing(config, source, detector, weights, pool, stage.output, stage.tracker)
        result = _checked(index, stage.output) | {"model_version": detector.version}
        numbers = {name: value for name, value in result.items() if isinstance(value, int)}
        stage.tracker.metrics(numbers, step=index.num_rows)
        stage.finish(result)
        storage.delete_directory(storage.join(stage.output, WORK))
    return {"output": stage.output, **result}


def _fetching(config: Config) -> FetchConfig | None:
    if config.predict.allow_urls and not config.fetch.contact:
        raise ValueError(
            "predict.allow_urls needs fetch.contact, a mail address or page where the owner of a website reaches you"
        )
    return config.fetch if config.predict.allow_urls else None


def _pool(predict: PredictConfig) -> EmbedConfig:
    """The settings of an embedding's graph that this one goes by."""
    names = (
        *("num_workers", "cpus_per_worker", "gpus_per_worker", "threads_per_worker", "cpus_per_task"),
        *("records_per_task", "records_per_commit", "stall_timeout_s"),
    )
    return EmbedConfig(**{name: getattr(predict, name) for name in names})


def _keep(index: pa.Table, version: str, output: str) -> None:
    """Keep what the answers began with; a run that goes on must come with the same.

    Raises:
        RuntimeError: the images or the detector have changed since.
    """
    index_path, detector_path = (storage.join(output, WORK, name) for name in ("index.parquet", "detector.json"))
    anew = f"delete {output} to begin again"
    if not storage.exists(detector_path):
        storage.write_table(index_path, index)
        storage.write_json(detector_path, {"version": version})
        return
    check_index(index, output, what="prediction")
    before = storage.read_json(detector_path, {"version": str}, way_out=anew)["version"]
    if before != version:
        raise RuntimeError(f"the detector was {before[:12]}... when the prediction began and is {version[:12]}... now; {anew}")


def _answer_missing(
    config: Config,
    source: UnlabelledSource,
    detector: Detector,
    weights: str,
    pool: EmbedConfig,
    output: str,
    tracker: Tracker,
) -> None:
    predict = config.predict
    preparer = Preparer(detector.encoder_identity["preprocessing"], max_pixels=predict.max_pixels)
    answerer = {
        "config": replace(predict, detector=storage.absolute(predict.detector)),
        "weights": weights,
        "version": detector.version,
    }

    def write(missing: pa.Table, sizes: Sizes, progress: Report) -> None:
        prepare = PrepareStep(preparer, progress)
        steps = Steps(
            read=source.reader,
            decode=lambda table: prepare(table),
            encoder=_Answerer,
            arguments=answerer | {"progress": progress},
            progress=progress,
        )
        write_features(missing, steps, output, pool, sizes, {"schema": KEYED_ROWS, "compression": "zstd"}, section="predict")

    run_missing(
        source.index(),
        output,
        pool,
        sizes=functools.partial(_sizes, predict, pool, preparer),
        write=write,
        start_timeout_s=config.cluster.start_timeout_s,
        tracker=tracker,
        verb="answer",
    )


def _sizes(predict: PredictConfig, pool: EmbedConfig, preparer: Preparer, missing: pa.Table) -> Sizes:
    preprocessor = preparer.preprocessor
    sizes = sizes_of(
        pool,
        records=missing.num_rows,
        images_per_record=1.0,
        batch_size=predict.batch_size,
        pixel_bytes=preprocessor.height * preprocessor.width * 3,
        cpus=ray.cluster_resources().get("CPU", 1.0),
    )
    if predict.records_per_commit:
        return sizes
    return replace(sizes, commit=max(sizes.commit, missing.num_rows // _LEAST_COMMITS))


def _checked(index: pa.Table, output: str) -> dict[str, Any]:
    """Counts of what is committed, once every image is there exactly once.

    Raises:
        RuntimeError: one is missing, or there twice.
    """
    table = pa.concat_tables(read_tables(committed_files(output), ["key", "verdict", "error_reason"]))
    if not table["key"].combine_chunks().sort().equals(index["key"].combine_chunks().sort()):
        raise RuntimeError(
            f"{output}/data holds {table.num_rows} answers ({len(pc.unique(table['key']))} distinct) for {index.num_rows} "
            f"images, which must not happen; delete {output} and start again"
        )
    unreadable = len(table) - table["error_reason"].null_count
    return {
        "images": table.num_rows,
        "answered": table.num_rows - unreadable,
        "unreadable": unreadable,
        "unreadable_by_reason": _counted(table["error_reason"]),
        "verdicts": _counted(table["verdict"]),
    }


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    counts = pc.value_counts(column.drop_null()).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: entry["values"])}


class _Answerer:
    """The detector in one process of the pool.

    Args:
        config: what to load, and how.
        weights: their file where the job began; elsewhere they are found by their hash.
        version: of the detector, as it was where the job began.
        progress: told when it is loaded (step ``load``), and of each table.

    Raises:
        RuntimeError: the detector is another one here.
    """

    def __init__(self, config: PredictConfig, *, weights: str, version: str, progress: Report) -> None:
        import torch

        torch.set_num_threads(config.threads_per_worker)
        here = weights if os.path.isfile(weights) else find_weights(encoder_identity_of(config.detector), config.weights)
        predictor = Predictor.load(
            config.detector,
            weights=here,
            device=config.device,
            precision=config.precision,
            max_pixels=config.max_pixels,
        )
        if (found := predictor.detector.version) != version:
            raise RuntimeError(
                f"the detector on {platform.node()} is {found[:12]}..., and where the job began it is {version[:12]}...; "
                "put the same there"
            )
        self._answer = AnswerStep(predictor, progress)
        progress("load", 1)  # ends the time to start: from now on the stall limit applies

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._answer(table)
