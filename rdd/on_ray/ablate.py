"""Ablations: every row over several seeds, in parallel, and one table with what is known of each difference."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import ray

from rdd import storage
from rdd.config import Config
from rdd.config.parse import leaf_of, leaves, override
from rdd.evaluation.ablation_figures import as_png, auc_bars
from rdd.evaluation.ablation_table import Row, ablation_rows, as_csv, as_markdown
from rdd.evaluation.scores import Scored, read_logits
from rdd.on_ray.background import POLL_S, root_cause
from rdd.on_ray.feature_placement import hold_features
from rdd.on_ray.run_monitor import Follower
from rdd.on_ray.session import ray_session
from rdd.on_ray.single_process import fit_in_place, with_absolute_paths
from rdd.on_ray.train import NEUTRAL as TRAIN_NEUTRAL
from rdd.on_ray.train import SECTIONS, features_tag, headline
from rdd.runs.directory import RunDirectory
from rdd.runs.make_detector import finish_run
from rdd.tracking.tracker import Tracker, tracked

logger = logging.getLogger(__name__)

BASELINE = "ours"
NEUTRAL = TRAIN_NEUTRAL | {"ablate.output", "ablate.cpus_per_run", "ablate.gpus_per_run"}
"""Settings that a started-again ablation may change."""

_OVERRIDES = ("features", "model", "loss", "sam", "optimizer", "train")
_BARS = ("traditional1", "traditional2", BASELINE)


def run_ablation(config: Config) -> dict[str, Any]:
    """Train every row over every seed and compare them; started again, go on; finished, say what there is.

    Returns:
        ``output``, ``runs``, the AUC of each row and the rows that differ from ``ours`` by more than noise.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: a run failed; the others are finished and kept.
    """
    if not config.ablate.output:
        raise ValueError("ablate.output must name the directory to write, got nothing")
    if not config.features.path:
        raise ValueError("features.path must name the features to train on, got nothing")
    rows = rows_of(config)
    output = storage.absolute(config.ablate.output)
    identity = {name: asdict(getattr(config, name)) for name in (*SECTIONS, "ablate")}
    summary = storage.join(output, "metrics.json")
    if storage.exists(summary):
        with storage.owned_directory(output, identity, neutral=NEUTRAL):
            logger.info("%s is finished; delete it to begin again", output)
            return storage.read_json(summary)
    bundle = {"CPU": config.ablate.cpus_per_run, "GPU": config.ablate.gpus_per_run}
    with ray_session(config.cluster, [bundle], knobs="ablate.cpus_per_run or ablate.gpus_per_run"):
        table = hold_features(config.features)
        for row in rows.values():
            table.check_text_mode(row.features.text_mode)
        for part in ("train", "validation", "test"):
            table.split(config.features, part)
        with (
            storage.owned_directory(output, identity, neutral=NEUTRAL),
            tracked(config.tracking, job="ablate", output=output, tags=features_tag(table)) as tracker,
        ):
            own = {leaf: leaf_of(config, leaf) for leaf in leaves() if leaf.split(".")[0] in (*SECTIONS, "ablate")}
            tracker.params(own)
            _train_all(config, rows, output, tracker)
            return _compare(config, rows, output, summary, tracker)


def rows_of(config: Config) -> dict[str, Config]:
    """The config of each row.

    Raises:
        ValueError: there is no row ``ours``, or an override is wrong.
    """
    if BASELINE not in config.ablate.rows:
        given = ", ".join(config.ablate.rows) or "none"
        raise ValueError(
            f"ablate.rows must hold the row {BASELINE}, got {given}; jobs/configs/ablation.yaml names those of the paper"
        )
    rows = {}
    for name, values in config.ablate.rows.items():
        if not isinstance(values, Mapping):
            raise ValueError(f"ablate.rows of {name} must be overrides by dotted path, got {values!r}")
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"ablate.rows must be named by letters, digits, - and _, got {name!r}")
        foreign = [path for path in values if path.split(".")[0] not in _OVERRIDES]
        if foreign:
            raise ValueError(f"ablate.rows of {name} may override what a training run depends on, got {', '.join(foreign)}")
        rows[name] = override(config, values)
        if rows[name].train.cross_validate:
            raise ValueError("train.cross_validate must be false in an ablation, whose rows share one test set, got true")
    shared = [replace(row.features, text_mode="none", held="auto", shuffle_mib=1) for row in rows.values()]
    if any(features != shared[0] for features in shared):
        raise ValueError("ablate.rows must share features and split, or their differences are not paired; got several")
    return rows


def _same_as(rows: Mapping[str, Config]) -> dict[str, str]:
    """Rows that come to the settings of an earlier one: they are trained once."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for name, row in sorted(rows.items(), key=lambda item: item[0] != BASELINE):  # the baseline is nobody's twin
        key = repr([asdict(getattr(row, section)) for section in _OVERRIDES])
        if first.setdefault(key, name) != name:
            same[name] = first[key]
    return same


def _train_all(config: Config, rows: Mapping[str, Config], output: str, tracker: Tracker) -> None:
    """Every run that is not finished, as many at a time as the cluster has room for."""
    same = _same_as(rows)
    if same:
        logger.info("trained once: %s", ", ".join(f"{name} is {other} on these features" for name, other in same.items()))
    runs = {
        f"{name}/seed-{seed}": (name, _seeded(row, seed, output, name))
        for name, row in rows.items()
        if name not in same
        for seed in range(config.ablate.seeds)
    }
    task = ray.remote(
        num_cpus=config.ablate.cpus_per_run, num_gpus=config.ablate.gpus_per_run, max_retries=config.train.max_failures
    )(_train_one)
    waiting = {task.remote(with_absolute_paths(run)): name for name, (_, run) in runs.items()}
    failures: dict[str, str] = {}
    try:
        with Follower(tracker, config.train.stall_timeout_s) as follower:
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
                for name in waiting.values():
                    row, run = runs[name]
                    if storage.exists(run.train.output):
                        follower.add(name, RunDirectory(run.train.output), _params(row, run))
                follower.poll()
                for reference in done:
                    name = waiting.pop(reference)
                    _end(name, runs[name][1], reference, follower, failures)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
    if failures:
        what = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise RuntimeError(f"{len(failures)} of {len(runs)} runs failed, the others are kept: {what}")


def _seeded(row: Config, seed: int, output: str, name: str) -> Config:
    place = storage.join(output, "runs", name, f"seed-{seed}")
    return replace(row, train=replace(row.train, seed=row.train.seed + seed, output=place))


def _params(row: str, config: Config) -> dict[str, Any]:
    return {"row": row} | {leaf: leaf_of(config, leaf) for leaf in leaves() if leaf.split(".")[0] in SECTIONS}


def _end(name: str, config: Config, reference: Any, follower: Follower, failures: dict[str, str]) -> None:
    """A run is over: its headline to MLflow, or the reason of its failure."""
    follower.add(name, RunDirectory(config.train.output), _params(name.split("/")[0], config))
    try:
        metrics = ray.get(reference)
    except ray.exceptions.RayError as error:
        failures[name] = str(root_cause(error))
        logger.warning("%s failed: %s", name, failures[name])
        follower.finish(name, status="FAILED", metrics={}, tags={"rdd.error": failures[name][:500]}, epochs=0)
        return
    follower.finish(name, status="FINISHED", metrics=headline(metrics), tags={}, epochs=config.train.epochs)


def _train_one(config: Config) -> dict[str, Any]:
    """One run, in a Ray task: from its last checkpoint if it has one; finished, only its metrics."""
    run = RunDirectory(config.train.output)
    if not storage.exists(run.metrics):
        identity = {name: asdict(getattr(config, name)) for name in SECTIONS}
        with storage.owned_directory(run.path, identity, neutral=TRAIN_NEUTRAL):
            _, table = fit_in_place(config, run, lambda metrics: None, gpu=config.ablate.gpus_per_run > 0)
            finish_run(config, table, run)
    run.drop_checkpoints()  # the detector has the weights
    return storage.read_json(run.metrics)


def _compare(config: Config, rows: Mapping[str, Config], output: str, summary: str, tracker: Tracker) -> dict[str, Any]:
    """The table in its three forms, the bars, and the summary last."""
    same = _same_as(rows)
    started = time.monotonic()
    scored = {
        name: [
            read_logits(RunDirectory(_seeded(row, seed, output, same.get(name, name)).train.output).test_logits)
            for seed in range(config.ablate.seeds)
        ]
        for name, row in rows.items()
    }
    options = config.ablate
    _check_paired(scored)
    table = ablation_rows(scored, baseline=BASELINE, resamples=options.resamples, seed=config.evaluate.seed, same_as=same)
    logger.info("compared %d rows in %.0f s", len(table), time.monotonic() - started)
    folder = storage.join(output, "figures")
    storage.write_bytes(storage.join(output, "ablation.md"), as_markdown(table, BASELINE).encode())
    storage.write_bytes(storage.join(output, "ablation.csv"), as_csv(table).encode())
    storage.write_bytes(storage.join(output, "ablation.png"), as_png(table, BASELINE))
    bars = [row for name in _BARS for row in table if row.name == name]
    storage.write_bytes(storage.join(folder, "auc_bars.png"), auc_bars(bars))
    for row in table:
        tracker.metrics({f"{row.name}/auroc": row.auroc} | _difference(row), step=0)
    result = {
        "output": output,
        "runs": (len(rows) - len(same)) * options.seeds,
        "auroc": {row.name: row.auroc for row in table},
        "distinguishable_from_ours": [row.name for row in table if row.distinguishable],
    }
    tracker.artefacts(output, "ablation", only=("ablation.md", "ablation.csv", "ablation.png"))
    tracker.artefacts(folder, "figures")
    storage.write_json(summary, result)  # last: an ablation that has it is finished
    return result


def _check_paired(scored: Mapping[str, Sequence[Scored]]) -> None:
    """Refuse logits of different images: features that were embedded anew while the ablation was under way."""
    first = next(iter(scored.values()))[0]
    for name, by_seed in scored.items():
        for seed, one in enumerate(by_seed):
            if not (np.array_equal(one.records, first.records) and np.array_equal(one.generators, first.generators)):
                raise RuntimeError(
                    f"{name}/seed-{seed} was tested on other images than the first run; delete it to train it again"
                )


def _difference(row: Row) -> dict[str, float]:
    return {} if row.difference is None else {f"{row.name}/difference": row.difference.value}
