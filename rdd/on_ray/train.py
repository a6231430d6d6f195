"""Training on Ray Train: N workers on one path, killed and started again, and the detector at the end."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from rdd import storage
from rdd.config import Config
from rdd.config.parse import leaf_of, leaves
from rdd.engine import NotFiniteError, fit
from rdd.features import FeatureTable
from rdd.on_ray.background import Background
from rdd.on_ray.feature_placement import hold_features, place_of
from rdd.on_ray.session import ray_session, resources_held
from rdd.on_ray.single_process import with_absolute_paths
from rdd.on_ray.worker_context import RayContext
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext
from rdd.runs.make_detector import finish_run
from rdd.tracking.tracker import Tracker, tracked

logger = logging.getLogger(__name__)

SECTIONS = ("features", "model", "loss", "sam", "optimizer", "train", "evaluate")
"""What a run's result depends on."""

NEUTRAL = frozenset(
    {
        "train.output",
        "features.held",  # the run directory knows whether they are streamed, which alone makes a difference
        "train.stall_timeout_s",
        "train.max_failures",
        "train.threads_per_worker",
        "evaluate.run",
        "evaluate.output",
        "evaluate.part",
    }
)
"""Settings that a started-again run may change; scaling and tracking are not part of its identity either."""


def run_training(config: Config) -> dict[str, Any]:
    """Train a detector, or one for each fold; started again, go on; finished, say what there is.

    Returns:
        ``run_dir``, ``test_auroc`` with its interval, ``validation_auroc``, ``best_epoch``, ``epochs``.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: the work failed or stalled.
    """
    if not config.train.output:
        raise ValueError("train.output must name the run directory to write, got nothing")
    if not config.features.path:
        raise ValueError("features.path must name the features to train on, got nothing")
    if not storage.exists(storage.join(config.features.path, "manifest.json")):
        raise ValueError(
            f"{config.features.path} holds no manifest.json, so no finished embedding; run jobs/embed.py to its end"
        )
    scaling, workers = config.scaling, config.scaling.num_workers
    if workers == 0 and place_of(config.features) != "stream":
        return _train(config)
    bundles = [{"CPU": scaling.cpus_per_worker, "GPU": scaling.gpus_per_worker}] * workers
    with ray_session(config.cluster, bundles, knobs="scaling.num_workers, cpus_per_worker or gpus_per_worker"):
        return _train(config)


def _train(config: Config) -> dict[str, Any]:
    output = storage.absolute(config.train.output)
    if not config.train.cross_validate:
        return _train_run(config, output)
    folds = []
    for fold in range(config.features.num_folds):
        of_fold = replace(config, features=replace(config.features, fold=fold))
        folds.append(_train_run(of_fold, storage.join(output, f"fold-{fold}")))
    values = [fold["test_auroc"] for fold in folds]
    report = {  # logits of different folds are not on one scale, so their ranks are not mixed
        "test_auroc": float(np.mean(values)),
        "test_auroc_std": float(np.std(values, ddof=1)),
        "folds": values,
        "fold_intervals": [fold["test_auroc_interval"] for fold in folds],
    }
    storage.write_json(storage.join(output, "metrics.json"), report)
    return {"run_dir": output, **report}


def _train_run(config: Config, output: str) -> dict[str, Any]:
    run = RunDirectory(output)
    identity = {name: asdict(getattr(config, name)) for name in SECTIONS}
    if storage.exists(run.metrics):
        with storage.owned_directory(output, identity, neutral=NEUTRAL):
            logger.info("%s is finished; delete it to train again", output)
            return _summary(run, storage.read_json(run.metrics))
    table = hold_features(config.features)
    table.check_text_mode(config.features.text_mode)
    for part in ("train", "validation", "test"):
        table.split(config.features, part)  # refuses a part of one class before the directory is this run's
    with storage.owned_directory(output, identity, neutral=NEUTRAL):
        with tracked(config.tracking, job="train", output=output, tags=features_tag(table)) as tracker:
            own = {leaf: leaf_of(config, leaf) for leaf in leaves() if leaf.split(".")[0] in (*SECTIONS, "scaling")}
            tracker.params({"row": "train"} | own)
            _fit(config, table, run, tracker)
            metrics = finish_run(config, table, run)
            tracker.metrics(headline(metrics), step=config.train.epochs)
            tracker.artefacts(run.detector, "detector")
            tracker.artefacts(run.figures, "figures")
    return _summary(run, metrics)


def _fit(config: Config, table: FeatureTable, run: RunDirectory, tracker: Tracker) -> None:
    def on_epoch(metrics: Mapping[str, float]) -> None:
        run.save_logged(int(metrics["epoch"]))
        numbers = {name: value for name, value in metrics.items() if name != "epoch" and value == value}
        tracker.metrics(numbers, step=int(metrics["epoch"]))
        logger.info(
            "epoch %d of %d: loss %.4f, validation AUC %.4f, %.0f images a second",
            metrics["epoch"],
            config.train.epochs,
            metrics["train/loss"],
            metrics["val/auroc"],
            metrics["time/samples_per_s"],
        )

    run.claim_features(table.identity, streamed=table.streamed)
    for metrics in run.history()[run.logged() :]:  # done just before a kill
        on_epoch(metrics)
    if config.scaling.num_workers == 0:
        torch.set_num_threads(config.train.threads_per_worker)
        fit(config, table, LocalContext(run, on_epoch))
    else:
        fit_on_workers(config, run, on_epoch)


def fit_on_workers(config: Config, run: RunDirectory, on_epoch: Callable[[Mapping[str, float]], None]) -> None:
    """Train on the workers of a Ray Train group.

    The caller's process reads the epochs from the run directory, so that a restart repeats none.

    Args:
        config: the run, with ``scaling.num_workers`` of at least 1.
        run: its directory, on storage that all workers share.
        on_epoch: told the metrics of each epoch.

    Raises:
        RuntimeError: the work failed or stalled.
    """
    run.forget_failure()
    seen, moved = len(run.history()), time.monotonic()
    # Ray wants a place that all workers share, if only to write that it was there; checkpoints are in the run directory
    ray_folder = storage.join(run.path, ".ray")
    background = Background(_trainer(config, run, ray_folder).fit)
    running, progress = True, run.progress()
    while running:
        running = background.running()
        history, latest = run.history(), run.progress()
        if latest is not None and latest != progress:
            progress, moved = latest, time.monotonic()
            logger.info("epoch %d: step %d of %d", latest["epoch"], latest["step"], latest["steps"])
        for metrics in history[seen:]:
            on_epoch(metrics)
            seen, moved = len(history), time.monotonic()
        if (reason := run.failure()) is not None:
            raise RuntimeError(reason)  # Ray would try it max_failures times more
        if time.monotonic() - moved > config.train.stall_timeout_s:
            raise RuntimeError(
                f"no step for {config.train.stall_timeout_s:g} s after epoch {seen}, held: {resources_held()}; "
                "the same command goes on where it stopped"
            )
    storage.delete_directory(ray_folder)
    background.finish()


def _trainer(config: Config, run: RunDirectory, ray_folder: str) -> TorchTrainer:
    scaling = config.scaling
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": scaling.gpus_per_worker} if scaling.gpus_per_worker else {})
    # workers have directories of their own
    config = with_absolute_paths(config)
    return TorchTrainer(
        _train_on_worker,
        train_loop_config={"config": config, "run": run},
        scaling_config=ScalingConfig(
            num_workers=scaling.num_workers, use_gpu=scaling.gpus_per_worker > 0, resources_per_worker=resources
        ),
        torch_config=TorchConfig(backend="nccl" if scaling.gpus_per_worker else "gloo"),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # never resumed by Ray
            storage_path=ray_folder,
            failure_config=FailureConfig(max_failures=config.train.max_failures),
        ),
    )


def _train_on_worker(given: dict[str, Any]) -> None:
    config, run = given["config"], given["run"]
    if (reason := run.failure()) is not None:
        raise RuntimeError(reason)
    torch.set_num_threads(config.train.threads_per_worker)
    context = RayContext(run)
    table = hold_features(config.features, device=context.device, group=context.group)
    try:
        fit(config, table, context)
    except (ValueError, NotFiniteError) as error:
        run.save_failure(str(error))
        raise


def features_tag(table: FeatureTable) -> dict[str, str]:
    """The features of a run, for MLflow."""
    return {"rdd.features_manifest_sha256": table.manifest_sha256}


def headline(metrics: dict[str, Any]) -> dict[str, float]:
    """The numbers of a finished run that are compared in MLflow."""
    test = metrics["test"]
    names = ("auroc", "misranked_pairs", "average_precision", "balanced_accuracy", "equal_error_rate", "tpr_at_1_percent_fpr")
    return {f"test/{name}": test[name] for name in names if test[name] is not None} | {
        "test/worst_generator_auroc": test["worst_generator"]["auroc"],
        "best_epoch": metrics["best_epoch"],
        "val/best_auroc": metrics["validation_auroc"],
    }


def _summary(run: RunDirectory, metrics: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_dir": run.path,
        "test_auroc": metrics["test"]["auroc"],
        "test_auroc_interval": metrics["test"]["auroc_interval"],
        "test_misranked_pairs": metrics["test"]["misranked_pairs"],
        "test_pairs": metrics["test"]["pairs"],
        "validation_auroc": metrics["validation_auroc"],
        "best_epoch": metrics["best_epoch"],
        "epochs": len(metrics["history"]),
    }
