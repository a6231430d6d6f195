"""Sweeps on Ray Tune: one process a trial, the features once a node, and a sweep that goes on where it was killed."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import ray
from ray import tune
from ray.tune import FailureConfig, ResultGrid, RunConfig

from rdd import storage
from rdd.config import Config
from rdd.config.parse import leaf_of, leaves, override
from rdd.engine import NotFiniteError
from rdd.on_ray.background import Background, root_cause
from rdd.on_ray.feature_placement import hold_features
from rdd.on_ray.run_monitor import Follower
from rdd.on_ray.search_algorithms import param_space, scheduler, searcher
from rdd.on_ray.session import ray_session
from rdd.on_ray.single_process import fit_in_place, with_absolute_paths
from rdd.on_ray.train import SECTIONS, features_tag, fit_on_workers
from rdd.runs.search_space import Domain, read_space, trials_of
from rdd.runs.sweep import SweepDirectory, finish_sweep
from rdd.tracking.tracker import Tracker, tracked

logger = logging.getLogger(__name__)

NEUTRAL = frozenset(
    {
        "tune.output",
        "tune.cpus_per_trial",
        "tune.gpus_per_trial",
        "train.output",
        "train.stall_timeout_s",
        "train.max_failures",
        "train.threads_per_worker",
    }
)
"""Settings that a started-again sweep may change."""

_METRIC = "auroc"


def run_sweep(config: Config) -> dict[str, Any]:
    """Search ``tune.space`` for the largest validation AUC; started again, go on; finished, say what there is.

    Returns:
        ``output``, ``trials`` with how many of them finished, were stopped early and failed, the best trial's
        ``validation_auroc`` and values, and ``best_config``, which jobs/train.py takes.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: every trial failed, or nothing moves.
    """
    if not config.tune.output:
        raise ValueError("tune.output must name the directory to write, got nothing")
    if not config.features.path:
        raise ValueError("features.path must name the features to train on, got nothing")
    if config.train.cross_validate:
        raise ValueError("train.cross_validate must be false in a sweep, which chooses by one validation set, got true")
    if config.scaling.num_workers > 1 and config.tune.scheduler != "none":
        raise ValueError(
            f"tune.scheduler must be none when scaling.num_workers is above 1, got {config.tune.scheduler}: "
            "a trial that is stopped early would leave its workers behind"
        )
    space = read_space(config)
    sweep = SweepDirectory(storage.absolute(config.tune.output))
    identity = {name: asdict(getattr(config, name)) for name in (*SECTIONS, "tune")}
    if storage.exists(sweep.metrics):
        with storage.owned_directory(sweep.path, identity, neutral=NEUTRAL):
            logger.info("%s is finished; delete it to search again", sweep.path)
            return storage.read_json(sweep.metrics)
    with ray_session(config.cluster, [_bundle(config)], knobs="tune.cpus_per_trial, tune.gpus_per_trial or scaling"):
        table = hold_features(config.features)
        table.check_text_mode(config.features.text_mode)
        images = len(table.split(config.features, "train"))
        table.split(config.features, "validation")
        with (
            storage.owned_directory(sweep.path, identity, neutral=NEUTRAL),
            tracked(config.tracking, job="tune", output=sweep.path, tags=features_tag(table)) as tracker,
        ):
            own = {leaf: leaf_of(config, leaf) for leaf in leaves() if leaf.split(".")[0] in (*SECTIONS, "tune")}
            tracker.params(own)
            with Follower(tracker, config.train.stall_timeout_s) as follower:
                results = _search(config, space, sweep, follower)
                return _finish(config, space, sweep, results, follower, tracker, images)


def _bundle(config: Config) -> dict[str, float]:
    """What one trial takes."""
    if config.scaling.num_workers > 1:
        workers = config.scaling.num_workers
        return {"CPU": workers * config.scaling.cpus_per_worker, "GPU": workers * config.scaling.gpus_per_worker}
    return {"CPU": config.tune.cpus_per_trial, "GPU": config.tune.gpus_per_trial}


def _search(config: Config, space: Mapping[str, Domain], sweep: SweepDirectory, follower: Follower) -> ResultGrid:
    """Run what is left of the trials."""
    tuner = _tuner(config, space, sweep)
    settings = {"row": "trial"} | {leaf: leaf_of(config, leaf) for leaf in leaves() if leaf.split(".")[0] in SECTIONS}
    results: list[ResultGrid] = []
    background = Background(lambda: results.append(tuner.fit()))
    running = True
    while running:
        running = background.running()
        for name, values in sweep.started():
            follower.add(name, sweep.trial(name), settings | values)
        follower.poll()
    background.finish()
    return results[0]


def _tuner(config: Config, space: Mapping[str, Domain], sweep: SweepDirectory) -> tune.Tuner:
    """A new search, or the one that was killed."""
    options = config.tune
    nested = config.scaling.num_workers > 1
    given = with_absolute_paths(config)
    trainable: Callable[..., Any] = tune.with_parameters(_trial, config=given, sweep=sweep)
    bundle = _bundle(config)
    # a nested trainer brings its own workers; the trial that waits for them takes next to nothing, but Ray wants something
    own = {"CPU": 0.001, "GPU": 0.0} if nested else bundle
    trainable = tune.with_resources(trainable, {"cpu": own["CPU"], "gpu": own["GPU"]})
    place = storage.join(sweep.ray, "sweep")
    if _noted(place):
        logger.info("going on with the sweep in %s", sweep.path)
        return tune.Tuner.restore(place, trainable, resume_unfinished=True, resume_errored=False)
    storage.delete_directory(sweep.ray)
    concurrent = options.max_concurrent or (_room(bundle) if nested else 0)
    return tune.Tuner(
        trainable,
        param_space=param_space(config, space),
        tune_config=tune.TuneConfig(
            search_alg=searcher(config, concurrent),
            scheduler=scheduler(config),
            metric=_METRIC,
            mode="max",
            num_samples=1 if options.search == "grid" else options.num_trials,
            max_concurrent_trials=concurrent or None if options.search == "optuna" else None,
            reuse_actors=True,  # a new process takes seconds to import torch
            trial_dirname_creator=_name,
        ),
        run_config=RunConfig(
            name="sweep",
            storage_path=sweep.ray,
            failure_config=FailureConfig(max_failures=config.train.max_failures),  # lost workers; an error of its own is noted
            callbacks=[_KeepBest(sweep, options.keep_best)],
            verbose=0,
        ),
    )


def _noted(place: str) -> bool:
    """Whether Ray Tune has noted which trials there are; killed before that, it would go on with a trial of nothing."""
    if not tune.Tuner.can_restore(place):
        return False
    states = [file for file in storage.list_files(place, suffix=".json") if "/experiment_state" in file.path]
    try:
        return any(storage.read_json(file.path) for file in states)
    except ValueError:  # torn
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

    def report(metrics: Mapping[str, float]) -> None:
        tune.report(_reported(metrics))

    try:
        own = override(config, values)
        if own.scaling.num_workers > 1:
            fit_on_workers(own, run, report)
        else:
            fit_in_place(own, run, report, gpu=own.tune.gpus_per_trial > 0)
    except (ValueError, NotFiniteError) as error:
        # it would come again: the trial is over, as the worst there is, and nobody tries it anew
        run.save_failure(str(error))
        tune.report({_METRIC: 0.0, "epoch": 1})


def _name(trial: Any) -> str:
    return trial.trial_id


def _reported(metrics: Mapping[str, float]) -> dict[str, float]:
    return {_METRIC: metrics["val/auroc"], "epoch": int(metrics["epoch"])}


class _KeepBest(tune.Callback):
    """Notes the trials that ended, and deletes the weights of those that are not among the best so far."""

    def __init__(self, sweep: SweepDirectory, keep: int) -> None:
        self._sweep, self._keep = sweep, keep

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has run to its end, or was stopped."""
        run = self._sweep.trial(trial.trial_id)
        if run.failure() is not None:
            run.drop_checkpoints()
            return
        self._sweep.end(trial.trial_id, _reported(run.history()[-1]))
        ended = [(name, values) for name, values in self._sweep.started() if self._sweep.ended(name)]
        for name, _ in sorted(ended, key=self._sweep.rank)[self._keep :]:
            self._sweep.trial(name).drop_checkpoints()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed; its weights are of no use."""
        self._sweep.trial(trial.trial_id).drop_checkpoints()


def _finish(
    config: Config,
    space: Mapping[str, Domain],
    sweep: SweepDirectory,
    results: ResultGrid,
    follower: Follower,
    tracker: Tracker,
    images: int,
) -> dict[str, Any]:
    """Tables and figures of what the trials found; each one's end to MLflow."""
    expected = trials_of(config, space)
    if len(results) != expected:
        raise RuntimeError(f"{len(results)} of {expected} trials were run; delete {sweep.ray} to run the others")
    found = {result.path.rstrip("/").split("/")[-1]: result for result in results}
    for name, values in sweep.started():
        if name not in found:  # drawn just before a kill and not noted by Ray Tune, which then drew another
            follower.add(name, sweep.trial(name), values)
            follower.finish(name, status="KILLED", metrics={}, tags={"rdd.status": "not counted"}, epochs=0)
            storage.delete_directory(sweep.trial(name).path)
    trials = []
    for name, result in found.items():
        reason = sweep.trial(name).failure() or (None if result.error is None else str(root_cause(result.error)))
        trial = sweep.outcome(name, dict(result.config or {}), epochs=config.train.epochs, error=reason)
        trials.append(trial)
        follower.add(name, sweep.trial(name), trial.values)
        follower.finish(
            name,
            status="FAILED" if trial.error else "FINISHED",
            metrics={} if trial.best_auroc is None else {"val/best_auroc": trial.best_auroc},
            tags={"rdd.status": trial.status} | ({"rdd.error": trial.error[:500]} if trial.error else {}),
            epochs=trial.epochs,
        )
        if trial.error:
            logger.warning("trial %s failed with %s: %s", name, trial.values, trial.error)
    summary = finish_sweep(config, sweep, trials, images=images)
    tracker.metrics({name: value for name, value in summary.items() if isinstance(value, int | float)}, step=0)
    tracker.artefacts(sweep.figures, "figures")
    storage.delete_directory(sweep.ray)
    storage.write_json(sweep.metrics, summary)  # last: a sweep that has it is finished
    return summary
