"""Sweeps on Ray Tune: one process a trial, the features once a node, and a sweep that goes on where it was killed."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.tune import FailureConfig, ResultGrid, RunConfig
from ray.tune.execution import class_cache

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override, settings_of
from rdd.config.stages import TRAINING_SECTIONS, TUNE, require
from rdd.features.feature_set import check_inputs
from rdd.finite import NotFiniteError
from rdd.on_ray.background import Background, root_cause
from rdd.on_ray.feature_placement import hold_features
from rdd.on_ray.node_wait import NodeWait
from rdd.on_ray.run_monitor import RunMonitor
from rdd.on_ray.search_algorithms import param_space, scheduler, searcher
from rdd.on_ray.session import ray_session
from rdd.on_ray.single_process import fit_in_place, with_absolute_paths
from rdd.on_ray.train import check_features, features_tags, fit_on_workers, worker_bundle
from rdd.on_ray.trials import METRIC, TrialEvent, TrialEvents, Trials, new_events, reported
from rdd.runs.audit import audit_training
from rdd.runs.search_space import Domain, read_space, trials_of
from rdd.runs.stage import begun, finished
from rdd.runs.sweep import SweepDirectory, Trial, finish_sweep
from rdd.tracking.changes import CHANGES, changes

logger = logging.getLogger(__name__)

_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
"""What Ray Tune 2.60 would hand from the driver to the trials, on command lines that everyone on the node can read and in Ray's
logs. Trials on a local Ray inherit them; those on a cluster have the keys of their node, as the workers of every stage do."""


def run_sweep(config: Config) -> dict[str, Any]:
    """Search ``tune.space`` for the largest validation AUC; a stopped sweep resumes, a finished one only returns its summary.

    Returns:
        ``output``, ``trials`` with how many of them finished, were stopped early and failed, the best trial's
        ``validation_auroc`` and values, ``best_config``, which jobs/train.py takes, and ``best_report``, the page it leaves.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: every trial failed, or nothing moves.
    """
    require(TUNE, config)
    if config.train.cross_validate:
        raise ValueError("train.cross_validate must be false in a sweep, which chooses by one validation set, got true")
    if config.scaling.num_workers > 1 and config.tune.scheduler != "none":
        raise ValueError(
            f"tune.scheduler must be none when scaling.num_workers is above 1, got {config.tune.scheduler}: "
            "a trial that is stopped early would leave its workers behind"
        )
    space = read_space(config)
    sweep = SweepDirectory(storage.absolute(config.tune.output))
    if (summary := finished(TUNE, config)) is not None:
        return summary
    check_inputs(config.features)
    with ray_session(config.cluster, [_bundle(config)], knobs="tune.cpus_per_trial, tune.gpus_per_trial or scaling"):
        table = hold_features(config.features)
        check_features(config, table)
        images = len(table.split(config.features, "train"))
        with (
            begun(TUNE, config, tags=features_tags(config, table)) as stage,
            RunMonitor(stage.tracker, "trial", config, _nodes_of_a_trial(config)) as monitor,
        ):
            audit_training(config, sweep.path, table.text_mode(config.features.text_mode), stage.tracker)
            trials = _search(config, space, sweep, monitor, auto=table.text_mode("auto"))
            summary = finish_sweep(config, sweep, trials, images=images)
            numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
            stage.tracker.metrics(numbers, step=0)
            stage.tracker.artefacts(sweep.figures, "figures")
            storage.delete_directory(sweep.ray)
            return stage.finish(summary)


def _bundle(config: Config) -> dict[str, float]:
    """What one trial takes."""
    if config.scaling.num_workers > 1:
        return {name: config.scaling.num_workers * amount for name, amount in worker_bundle(config).items()}
    return {"CPU": config.tune.cpus_per_trial, "GPU": config.tune.gpus_per_trial}


def _nodes_of_a_trial(config: Config) -> NodeWait:
    if config.scaling.num_workers > 1:
        return NodeWait(worker_bundle(config), config.scaling.least_workers, what="a trial")
    return NodeWait(_bundle(config), 1, what="a trial")


def _search(
    config: Config, space: Mapping[str, Domain], sweep: SweepDirectory, monitor: RunMonitor, *, auto: str
) -> list[Trial]:
    """Run what is left of the trials, and say how each has ended; ``auto`` is what that text mode comes to."""
    new_events()  # of an earlier sweep of this process
    settings = settings_of(config, TRAINING_SECTIONS)

    def params(drawn: Mapping[str, Any]) -> dict[str, Any]:
        changed = changes({**settings, **drawn}, config, auto=auto)
        return {"row": "trial", CHANGES: changed, **settings, **drawn}

    trials = Trials(sweep, monitor, params=params, drawn=space.keys(), epochs=config.train.epochs, keep=config.tune.keep_best)
    trials.recall()
    logger.info("%d trials", trials_of(config, space))
    tuner = _tuner(config, space, sweep)
    results: list[ResultGrid] = []
    background = Background(lambda: results.append(tuner.fit()))
    running = True
    while running:
        running = background.running()
        trials.take(new_events())
        monitor.poll()
    background.finish()
    return _outcomes(config, space, sweep, results[0], trials)


def _tuner(config: Config, space: Mapping[str, Domain], sweep: SweepDirectory) -> tune.Tuner:
    """A new search, or the one that was killed."""
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(_KEYS)
    options = config.tune
    nested = config.scaling.num_workers > 1
    trainable: Callable[..., Any] = tune.with_parameters(_trial, config=with_absolute_paths(config), sweep=sweep)
    bundle = _bundle(config)
    # a nested trainer brings its own workers; the trial that waits for them takes next to nothing, but Ray wants something
    resources = {"cpu": 0.001, "gpu": 0.0} if nested else {"cpu": bundle["CPU"], "gpu": bundle["GPU"]}
    trainable = tune.with_resources(trainable, resources)
    place = storage.join(sweep.ray, "sweep")
    files, folder = storage.filesystem(sweep.ray)  # pyarrow's own, which Ray would take, knows fewer ways to an object store
    if _has_trials(place):
        logger.info("going on with the sweep in %s", sweep.path)
        inner = storage.join(folder, "sweep")
        return tune.Tuner.restore(inner, trainable, resume_unfinished=True, resume_errored=False, storage_filesystem=files)
    storage.delete_directory(sweep.ray)
    concurrent = options.max_concurrent
    if nested and not concurrent:
        concurrent = _room(bundle)
    limit = None  # the other searchers know it themselves
    if options.search == "optuna" and concurrent:
        limit = concurrent
    return tune.Tuner(
        trainable,
        param_space=param_space(config, space),
        tune_config=tune.TuneConfig(
            search_alg=searcher(config, concurrent),
            scheduler=scheduler(config),
            metric=METRIC,
            mode="max",
            num_samples=1 if options.search == "grid" else options.num_trials,
            max_concurrent_trials=limit,
            reuse_actors=True,  # a new process takes seconds to import torch
            trial_dirname_creator=_directory_name,
        ),
        run_config=RunConfig(
            name="sweep",
            storage_path=folder,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=config.train.max_failures),  # lost workers; an error of its own is noted
            callbacks=[TrialEvents()],
            verbose=0,
        ),
    )


def _has_trials(place: str) -> bool:
    """Whether Ray Tune has saved its trials; a sweep that was killed before would resume as a trial without drawn values."""
    files, folder = storage.filesystem(place)
    if not tune.Tuner.can_restore(folder, storage_filesystem=files):
        return False
    states = [file for file in storage.list_files(place, suffix=".json") if "/experiment_state" in file.path]
    try:
        return any(storage.read_json(file.path, dict, way_out="the sweep begins again") for file in states)
    except RuntimeError:  # torn
        return False


def _room(bundle: Mapping[str, float]) -> int:
    """Trials that the cluster has room for at a time."""
    total = ray.cluster_resources()
    return max(1, min(int(total.get(name, 0) // amount) for name, amount in bundle.items() if amount > 0))


def _trial(values: dict[str, Any], *, config: Config, sweep: SweepDirectory) -> None:
    """One trial, in a process of Ray Tune's; killed and started again, it goes on from its last checkpoint."""
    name = tune.get_context().get_trial_id()
    run = sweep.trial(name)
    if ended := sweep.ended(name):  # before Ray Tune had noted it, when the sweep was killed
        tune.report(ended)
        return
    sweep.start(name, values)
    told = False

    def report(metrics: Mapping[str, float]) -> None:
        nonlocal told
        told = True
        tune.report(reported(metrics))

    try:
        drawn = override(config, values)
        if drawn.scaling.num_workers > 1:
            fit_on_workers(drawn, run, report)
        else:
            fit_in_place(drawn, run, report, gpu=drawn.tune.gpus_per_trial > 0)
        if not told:  # the sweep was killed after the trial's last epoch; Ray Tune refuses a trial that reports nothing
            report(run.history()[-1])
    except (ValueError, NotFiniteError) as error:
        # the same settings would fail again: end the trial with the worst AUC, without an error that Ray Tune would retry
        run.save_failure(str(error))
        tune.report({METRIC: 0.0, "epoch": 1})


def _directory_name(trial: Any) -> str:
    return trial.trial_id


def _outcomes(
    config: Config, space: Mapping[str, Domain], sweep: SweepDirectory, results: ResultGrid, trials: Trials
) -> list[Trial]:
    """How each trial has ended that Ray Tune counts, in its order."""
    expected = trials_of(config, space)
    if len(results) != expected:
        raise RuntimeError(f"{len(results)} of {expected} trials were run; delete {sweep.ray} to run the others")
    by_name = {result.path.rstrip("/").split("/")[-1]: result for result in results}
    for name in set(sweep.names()) - by_name.keys():
        trials.leave_out(name)
    for name, result in by_name.items():  # those that have ended in an earlier process, too
        error = None if result.error is None else str(root_cause(result.error))
        trials.end(TrialEvent(name, dict(result.config or {}), ended=True, error=error))
    return [trials.outcomes[name] for name in by_name]
