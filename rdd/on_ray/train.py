"""Training on Ray Train: N workers that compute the same updates as one, restart after a kill, and the detector at the end."""

import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import ray.train.torch
import torch
from ray.train import FailureConfig, PreemptionError, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from rdd import storage
from rdd.config import Config
from rdd.config.added import ADDED
from rdd.config.parse import section_dicts, settings_of
from rdd.config.stages import TRAIN, require
from rdd.engine import fit
from rdd.features import FeatureTable
from rdd.features.feature_set import FeatureSet, check_inputs, identity_if_there
from rdd.finite import NotFiniteError
from rdd.heads import check_head
from rdd.on_ray.background import Background
from rdd.on_ray.feature_placement import hold_features, place_of
from rdd.on_ray.node_wait import NodeWait
from rdd.on_ray.process_group import torch_config
from rdd.on_ray.session import ray_session, resources_held
from rdd.on_ray.single_process import with_absolute_paths
from rdd.on_ray.worker_context import WorkerContext
from rdd.progress import StallClock
from rdd.runs.audit import audit_training
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext
from rdd.runs.logged_model import log_model
from rdd.runs.make_detector import make_detector
from rdd.runs.report import PAGE, leave_report
from rdd.runs.stage import begun, finished
from rdd.tracking.changes import CHANGES, changes
from rdd.tracking.run_metrics import log_epoch, result_metrics
from rdd.tracking.tracker import Tracker, check_tracking, tracked

logger = logging.getLogger(__name__)

Watcher = Callable[[Mapping[str, float]], None]
"""Callback: gets the metrics of each epoch."""


def run_training(config: Config, *, child: Tracker | None = None) -> dict[str, Any]:
    """Train a detector, or one for each fold; a stopped run resumes, a finished one only returns its summary.

    Args:
        config: the run.
        child: its MLflow run, where it is one below another's; by default one of its own, or of its own for each fold.

    Returns:
        ``run_dir``, ``test_auroc`` with its interval, ``validation_auroc``, ``best_epoch``, ``epochs``.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: the work failed or stalled.
    """
    require(TRAIN, config)
    check_tracking(config.tracking)
    if not config.train.cross_validate and (summary := _finished(config, storage.absolute(config.train.output))) is not None:
        if child is None:
            _register(config, RunDirectory(summary["run_dir"]))
        return summary
    check_inputs(config.features)  # refused before Ray is started or waited for
    scaling = config.scaling
    if scaling.num_workers == 0 and place_of(config.features, to_train=True) != "stream":
        return _train(config, child)
    knobs = "scaling.num_workers, min_workers, cpus_per_worker or gpus_per_worker"
    with ray_session(config.cluster, [worker_bundle(config)] * scaling.least_workers, knobs=knobs):
        return _train(config, child)


def worker_bundle(config: Config) -> dict[str, float]:
    """CPUs and GPUs that a training worker takes."""
    return {"CPU": config.scaling.cpus_per_worker, "GPU": config.scaling.gpus_per_worker}


def _train(config: Config, child: Tracker | None) -> dict[str, Any]:
    output = storage.absolute(config.train.output)
    if not config.train.cross_validate:
        return _train_run(config, output, child)
    with storage.owned_directory(output, section_dicts(config, TRAIN.sections), neutral=TRAIN.may_change, added=ADDED):
        return _train_folds(config, output)


def _train_folds(config: Config, output: str) -> dict[str, Any]:
    """A run for each fold, below one directory, and what they come to together."""
    folds = []
    for fold in range(config.features.num_folds):
        fold_config = replace(config, features=replace(config.features, fold=fold))
        folds.append(_train_run(fold_config, storage.join(output, f"fold-{fold}"), audit_made_in=output))
    values = [fold["test_auroc"] for fold in folds]
    report = {  # logits of different folds are not on one scale, so their ranks are not mixed
        "test_auroc": float(np.mean(values)),
        "test_auroc_std": float(np.std(values, ddof=1)),
        "folds": values,
        "fold_intervals": [fold["test_auroc_interval"] for fold in folds],
    }
    storage.write_json(storage.join(output, "metrics.json"), report)
    return {"run_dir": output, **report}


def _train_run(
    config: Config, output: str, child: Tracker | None = None, *, audit_made_in: str | None = None
) -> dict[str, Any]:
    if (summary := _finished(config, output)) is not None:
        return summary
    run = RunDirectory(output)
    table = hold_features(config.features, to_train=config.scaling.num_workers == 0)
    check_features(config, table)
    with begun(TRAIN, config, output=output, tags=features_tags(config, table), child=child) as stage:
        text_mode = table.text_mode(config.features.text_mode)
        changed = changes(settings_of(config, TRAIN.sections), config, auto=table.text_mode("auto"))
        stage.tracker.params({"row": "train", CHANGES: changed} | settings_of(config, ["scaling"]))
        audit_training(config, output, text_mode, stage.tracker, made_in=audit_made_in)
        _fit(config, table, run, stage.tracker)
        metrics = make_detector(config, table, run)
        stage.tracker.metrics(result_metrics(metrics), step=config.train.epochs)
        stage.tracker.artefacts(run.detector, "detector")
        stage.tracker.artefacts(run.figures, "figures")
        leave_report(output, metrics, config.report)
        stage.tracker.artefacts(output, "report", only=(PAGE,))
        if child is None:
            log_model(stage.tracker, config.tracking, run.detector)
        stage.finish(metrics)
    return _summary(run, metrics)


def _finished(config: Config, output: str) -> dict[str, Any] | None:
    """The summary of a finished run; its features may be gone by now, but not have been embedded anew."""
    if (metrics := finished(TRAIN, config, output=output)) is None:
        return None
    run = RunDirectory(output)
    if not storage.exists(storage.join(run.detector, "detector.json")):
        raise RuntimeError(f"{run.path} is finished but its detector is gone; delete its metrics.json to make it anew")
    if (identity := identity_if_there(config.features.path)) is not None:
        run.check_features(identity)
    return _summary(run, metrics)


def _register(config: Config, run: RunDirectory) -> None:
    """Register the detector of a finished run, where the command has come to ask for it."""
    if config.tracking.register:
        with tracked(config.tracking, job=TRAIN.name, output=run.path) as tracker:
            log_model(tracker, config.tracking, run.detector)


def check_features(config: Config, table: FeatureTable) -> None:
    """Refuse features that a run can not be trained on, before its directory is taken; say which text mode they have.

    Raises:
        ValueError: there is no text where it is asked for, the head can not take the inputs, or a part
            of the split lacks a class.
    """
    check_head(config.model, table.text_mode(config.features.text_mode), list(table.inputs.values()))
    if config.features.text_mode == "auto":
        held = "prompts" if table.has_text else "no prompts"
        logger.info("features.text_mode auto is %s: the features hold %s", table.text_mode("auto"), held)
    table.split(config.features, "train")  # refuses if any part lacks a class


def features_tags(config: Config, table: FeatureTable) -> dict[str, str]:
    """What a run is trained on, for MLflow."""
    text_mode = table.text_mode(config.features.text_mode)
    return {"rdd.features_manifest_sha256": table.manifest_sha256, "rdd.text_mode": text_mode}


def _fit(config: Config, table: FeatureTable, run: RunDirectory, tracker: Tracker) -> None:
    def on_epoch(metrics: Mapping[str, float]) -> None:
        run.save_logged(int(metrics["epoch"]))
        log_epoch(tracker, metrics)
        logger.info(
            "epoch %d of %d: loss %.4f, validation AUC %.4f, %.0f images a second",
            metrics["epoch"],
            config.train.epochs,
            metrics["train/loss"],
            metrics["val/auroc"],
            metrics["time/samples_per_s"],
        )

    for metrics in run.history()[run.logged() :]:  # done just before a kill
        on_epoch(metrics)
    if config.scaling.num_workers == 0:
        run.claim_features(table.identity, streamed=table.streamed)
        torch.set_num_threads(config.train.threads_per_worker)
        fit(config, table, LocalContext(run, on_epoch, checkpoint_s=config.train.checkpoint_s))
    else:
        fit_on_workers(config, run, on_epoch)


def fit_on_workers(config: Config, run: RunDirectory, on_epoch: Watcher) -> None:
    """Train on the workers of a Ray Train group.

    The caller's process reads the epochs from the run directory, so that a restart repeats none.

    Args:
        config: the run, with ``scaling.num_workers`` of at least 1.
        run: its directory, on storage that all workers share.
        on_epoch: called with the metrics of each epoch.

    Raises:
        ValueError: the run was begun on other features, or on features in another order.
        RuntimeError: the work failed or stalled.
    """
    identity = FeatureSet.open(config.features.path).identity
    run.claim_features(identity, streamed=config.features.held == "stream")  # what every rank will hold to
    run.forget_failure()
    # Ray wants a place that all workers share, if only to write that it was there; checkpoints are in the run directory
    ray_folder = storage.join(run.path, ".ray")
    clock = StallClock(stall_timeout_s=config.train.stall_timeout_s, start_timeout_s=config.cluster.start_timeout_s)
    nodes = NodeWait(worker_bundle(config), config.scaling.least_workers, what="training")
    loading, progress, history = run.notes()
    notice = run.notice()
    clock.observe((loading, progress, len(history)))
    epochs_told = len(history)
    background = Background(lambda: _fit_group(config, run, ray_folder))
    running = True
    while running:
        running = background.running()
        loading, latest, history = run.notes()
        clock.observe((loading, latest, len(history)))
        if (latest_notice := run.notice()) is not None and latest_notice != notice:
            notice = latest_notice
            clock.start_anew()
            kept = f"kept epoch {notice['epoch']} as it is after step {notice['step']}"
            logger.info("a node will be taken away: %s, and going on with what is left", kept)
        if nodes.changed():
            clock.start_anew()
        if latest is not None and latest != progress:
            progress = latest
            logger.info("epoch %d: step %d of %d", latest["epoch"], latest["step"], latest["steps"])
        for metrics in history[epochs_told:]:
            on_epoch(metrics)
        epochs_told = len(history)
        if (reason := run.failure()) is not None:
            raise RuntimeError(reason)  # Ray would try it max_failures times more
        if (limit := clock.stalled_s()) is not None:
            what = f"no step for {limit:g} s after epoch {epochs_told}"
            if nodes.lacking is not None:
                what = f"{nodes.lacking}, for {limit:g} s now"
            raise RuntimeError(f"{what}, held: {resources_held()}; the same command goes on where it stopped")
    storage.delete_directory(ray_folder)
    background.finish()


def _fit_group(config: Config, run: RunDirectory, ray_folder: str) -> None:
    # of the wait for places that the count of nodes promises: a node that has just died is counted for some seconds
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    try:
        _trainer(config, run, ray_folder).fit()
    except PreemptionError as error:
        raise RuntimeError(
            f"nodes were taken away more than train.max_preemptions = {config.train.max_preemptions} times; "
            "the same command goes on where it stopped"
        ) from error


def _trainer(config: Config, run: RunDirectory, ray_folder: str) -> TorchTrainer:
    scaling, elastic = config.scaling, config.scaling.least_workers < config.scaling.num_workers
    resources = {"CPU": scaling.cpus_per_worker} | ({"GPU": scaling.gpus_per_worker} if scaling.gpus_per_worker else {})
    # workers have directories of their own
    config = with_absolute_paths(config)
    # Ray would ask pyarrow for the file system, which knows less of the ways to an object store than fsspec
    place_for_ray, folder_for_ray = storage.filesystem(ray_folder)
    return TorchTrainer(
        _train_on_worker,
        train_loop_config={"config": config, "run": run},
        scaling_config=ScalingConfig(
            num_workers=(scaling.least_workers, scaling.num_workers) if elastic else scaling.num_workers,
            elastic_resize_monitor_interval_s=config.train.checkpoint_s,  # what a group that grows does again
            use_gpu=scaling.gpus_per_worker > 0,
            resources_per_worker=resources,
            placement_strategy="PACK",  # on few nodes: they exchange gradients twice a step, and a node holds the features once
        ),
        torch_config=torch_config("nccl" if scaling.gpus_per_worker else "gloo", timeout_s=config.cluster.start_timeout_s),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # never resumed by Ray
            storage_path=folder_for_ray,
            storage_filesystem=place_for_ray,
            failure_config=FailureConfig(
                max_failures=config.train.max_failures, max_preemption_failures=config.train.max_preemptions
            ),
        ),
    )


def _train_on_worker(arguments: dict[str, Any]) -> None:
    config, run = arguments["config"], arguments["run"]
    if (reason := run.failure()) is not None:
        raise RuntimeError(reason)
    torch.set_num_threads(config.train.threads_per_worker)
    device = ray.train.torch.get_device()
    try:
        table = hold_features(config.features, device=device, to_train=True, on_loading=run.save_loading)
        run.check_features(table.identity)
        fit(config, table, WorkerContext(run, config.train, device))
    except (ValueError, NotFiniteError) as error:
        run.save_failure(str(error))
        raise


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
