"""Ablations: every row over several seeds, in parallel, and one table with what is known of each difference."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from rdd import storage
from rdd.config import Config, FeaturesConfig
from rdd.config.parse import override, section_dicts, settings_of
from rdd.config.stages import ABLATE, TRAIN, TRAINING_SECTIONS, require
from rdd.evaluation.ablation_figures import as_png, auc_bars
from rdd.evaluation.ablation_table import Row, ablation_rows, as_csv, as_markdown, row_values, short_texts
from rdd.evaluation.figures import save_figure
from rdd.evaluation.probes import PROBES
from rdd.evaluation.scores import Scored, read_logits
from rdd.features import FeatureTable
from rdd.features.feature_set import check_inputs
from rdd.heads import check_head
from rdd.metrics import auroc
from rdd.on_ray.background import POLL_S, root_cause
from rdd.on_ray.feature_placement import hold_features
from rdd.on_ray.node_wait import NodeWait
from rdd.on_ray.probes import scored_probes
from rdd.on_ray.run_monitor import RunMonitor
from rdd.on_ray.session import ray_session
from rdd.on_ray.single_process import fit_in_place, with_absolute_paths
from rdd.on_ray.train import check_features, features_tags
from rdd.provenance import GIT_VARIABLE, git_commit
from rdd.runs.audit import audit_training
from rdd.runs.directory import RunDirectory
from rdd.runs.make_detector import make_detector
from rdd.runs.report import PAGE, leave_report
from rdd.runs.stage import begun, finished
from rdd.signals import signals_held
from rdd.tracking.changes import CHANGES, changes
from rdd.tracking.pages import DIFFERENCE_TAG, INTERVAL_TAG, P_VALUE_TAG
from rdd.tracking.run_metrics import result_metrics, rounded
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

BASELINE = "ours"

_OVERRIDES = ("features", "model", "loss", "sam", "optimizer", "train")


def run_ablation(config: Config) -> dict[str, Any]:
    """Train every row over every seed and compare them; a stopped ablation resumes, a finished one only returns its summary.

    Returns:
        ``output``, ``runs``, the AUC of each row and the rows that differ from ``ours`` by more than noise.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: a run failed; the others are finished and kept.
    """
    require(ABLATE, config)
    rows = rows_of(config)
    if (summary := finished(ABLATE, config)) is not None:
        return summary
    widths = {name: check_inputs(row.features) for name, row in rows.items()}
    with ray_session(config.cluster, [_bundle(config)], knobs="ablate.cpus_per_run or ablate.gpus_per_run"):
        table = hold_features(_features_of_all(config, rows))
        check_features(config, table)
        for name, row in rows.items():
            check_head(row.model, table.text_mode(row.features.text_mode), widths[name])
        rows = {name: _with_text_mode(row, table) for name, row in rows.items()}
        plan = _Plan(
            rows, _changes_of(config, rows, table), _same_as(rows), config.ablate.seeds, storage.absolute(config.ablate.output)
        )
        with begun(ABLATE, config, tags=features_tags(config, table)) as stage:
            modes = [row.features.text_mode for row in rows.values()]
            text_mode = "official" if "official" in modes else modes[0]  # one that leaks the label is warned of
            audit_training(config, plan.output, text_mode, stage.tracker)
            _train_all(config, plan, stage.tracker)
            table_rows = _compare(config, plan)
            _log_rows(plan, table_rows, stage.tracker)
            stage.tracker.artefacts(plan.output, "ablation", only=("ablation.md", "ablation.csv", "ablation.png"))
            for folder in {page.rpartition("/")[0] for page in plan.pages().values()}:
                stage.tracker.artefacts(storage.join(plan.output, folder), f"ablation/{folder}", only=(PAGE,))
            stage.tracker.artefacts(storage.join(plan.output, "figures"), "figures")
            return stage.finish(
                {
                    "output": plan.output,
                    "runs": len(plan.runs()),
                    "auroc": {row.name: row.auroc for row in table_rows},
                    "distinguishable_from_ours": [row.name for row in table_rows if row.distinguishable],
                }
            )


def _bundle(config: Config) -> dict[str, float]:
    """What one run takes."""
    return {"CPU": config.ablate.cpus_per_run, "GPU": config.ablate.gpus_per_run}


@dataclass(frozen=True)
class _Plan:
    """The runs of an ablation: every row with every seed; rows with equal settings share their runs."""

    rows: Mapping[str, Config]
    changes: Mapping[str, str]
    """By name of a row, what it changes against the paper's method."""
    same_as: Mapping[str, str]
    """By name of a row that is not trained, the row with the same settings, whose runs it shares."""
    seeds: int
    output: str

    def runs(self) -> dict[str, tuple[str, Config]]:
        """By the name of a run, its row and its config."""
        return {
            f"{name}/seed-{seed}": (name, self.run(name, seed))
            for name in self.rows
            if name not in self.same_as
            for seed in range(self.seeds)
        }

    def run(self, row: str, seed: int) -> Config:
        """The config of one run: its own directory, and its seed counted from that of the row."""
        trained = self.same_as.get(row, row)
        train = self.rows[trained].train
        place = storage.join(self.output, "runs", trained, f"seed-{seed}")
        return replace(self.rows[trained], train=replace(train, seed=train.seed + seed, output=place))

    def pages(self) -> dict[str, str]:
        """By name of a row, the page about its first run, from the table's directory; none of runs of an earlier version."""
        places = {name: storage.join(self.run(name, 0).train.output, PAGE) for name in self.rows}
        return {name: place[len(self.output) + 1 :] for name, place in places.items() if storage.exists(place)}


def rows_of(config: Config) -> dict[str, Config]:
    """The config of each row.

    Raises:
        ValueError: there is no row ``ours``, or an override is wrong.
    """
    if BASELINE not in config.ablate.rows:
        names = ", ".join(map(str, config.ablate.rows)) or "none"
        raise ValueError(
            f"ablate.rows must hold the row {BASELINE}, got {names}; jobs/configs/ablation.yaml names those of the paper"
        )
    rows = {}
    for name, values in config.ablate.rows.items():
        if not isinstance(name, str):
            raise ValueError(f"ablate.rows must be named by text, got {name!r}; put it in quotes")
        if not isinstance(values, Mapping):
            raise ValueError(f"ablate.rows of {name} must be overrides by dotted path, got {values!r}")
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"ablate.rows must be named by letters, digits, - and _, got {name!r}")
        if name in PROBES:
            raise ValueError(f"ablate.rows must have other names than the baselines of every table, got {name}")
        foreign = [path for path in values if path.split(".")[0] not in _OVERRIDES]
        if foreign:
            raise ValueError(f"ablate.rows of {name} may override what a training run depends on, got {', '.join(foreign)}")
        rows[name] = override(config, values)
        if rows[name].train.cross_validate:
            raise ValueError("train.cross_validate must be false in an ablation, whose rows share one test set, got true")
    free = FeaturesConfig()
    shared = [
        replace(row.features, inputs=free.inputs, views=0, text_mode="none", held=free.held, shuffle_mib=free.shuffle_mib)
        for row in rows.values()
    ]
    if any(features != shared[0] for features in shared):
        raise ValueError(
            "ablate.rows must share the feature set and its split, or their differences are not paired; got several"
        )
    return rows


def _features_of_all(config: Config, rows: Mapping[str, Config]) -> FeaturesConfig:
    """The features of the config, with the text that any row uses."""
    if all(one.features.text_mode == "none" for one in (config, *rows.values())):
        return config.features
    return replace(config.features, text_mode="auto")


def _with_text_mode(row: Config, table: FeatureTable) -> Config:
    """The row with text mode ``auto`` resolved for these features, after which two rows may have equal settings."""
    return replace(row, features=replace(row.features, text_mode=table.text_mode(row.features.text_mode)))


def _changes_of(config: Config, rows: Mapping[str, Config], table: FeatureTable) -> dict[str, str]:
    """By name of a row, what it changes against the paper's method."""
    auto = table.text_mode("auto")
    return {name: changes(settings_of(row, _OVERRIDES), config, auto=auto) for name, row in rows.items()}


def _same_as(rows: Mapping[str, Config]) -> dict[str, str]:
    """By name of a row, the baseline or earlier row with equal settings, so that these are trained once."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for name, row in sorted(rows.items(), key=lambda item: item[0] != BASELINE):
        key = repr(section_dicts(row, _OVERRIDES))
        if first.setdefault(key, name) != name:
            same[name] = first[key]
    return same


def _train_all(config: Config, plan: _Plan, tracker: Tracker) -> None:
    """Every run that is not finished, as many at a time as the cluster has room for."""
    if plan.same_as:
        pairs = ", ".join(f"{name} is {other} on these features" for name, other in plan.same_as.items())
        logger.info("trained once: %s", pairs)
    runs = plan.runs()
    task = ray.remote(
        num_cpus=config.ablate.cpus_per_run, num_gpus=config.ablate.gpus_per_run, max_retries=config.train.max_failures
    )(_train_one)
    waiting = {task.remote(with_absolute_paths(run), git_commit()): name for name, (_, run) in runs.items()}
    failures: dict[str, str] = {}
    try:
        with RunMonitor(tracker, "seed", config, NodeWait(_bundle(config), 1, what="a run")) as monitor:
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
                for name in waiting.values():
                    row, run = runs[name]
                    if storage.exists(run.train.output):
                        monitor.add(name, RunDirectory(run.train.output), _params(plan, row, run))
                monitor.poll()
                for reference in done:
                    name = waiting.pop(reference)
                    _end(plan, name, reference, monitor, failures)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
    if failures:
        what = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise RuntimeError(f"{len(failures)} of {len(runs)} runs failed, the others are kept: {what}")


def _params(plan: _Plan, row: str, config: Config) -> dict[str, Any]:
    return {"row": row, CHANGES: plan.changes[row]} | settings_of(config, TRAINING_SECTIONS)


def _end(plan: _Plan, name: str, reference: Any, monitor: RunMonitor, failures: dict[str, str]) -> None:
    """A run is over: its results to MLflow, or the reason of its failure."""
    row, config = plan.runs()[name]
    monitor.add(name, RunDirectory(config.train.output), _params(plan, row, config))
    try:
        metrics = ray.get(reference)
    except ray.exceptions.RayError as error:
        failures[name] = str(root_cause(error))
        logger.warning("%s failed: %s", name, failures[name])
        monitor.finish(name, status="FAILED", metrics={}, tags={"rdd.error": failures[name][:500]}, epochs=0)
        return
    monitor.finish(name, status="FINISHED", metrics=result_metrics(metrics), tags={}, epochs=config.train.epochs)


def _train_one(config: Config, commit: str) -> dict[str, Any]:
    """One run, in a Ray task: from its last checkpoint if it has one; finished, only its metrics.

    Args:
        config: the run.
        commit: of the code, which this process may have without its repository and the driver's environment.
    """
    os.environ[GIT_VARIABLE] = commit
    config = replace(config, tracking=replace(config.tracking, enabled=False))  # the driver logs it
    run = RunDirectory(config.train.output)
    if (metrics := finished(TRAIN, config)) is None:
        with begun(TRAIN, config) as stage:
            _, table = fit_in_place(config, run, lambda metrics: None, gpu=config.ablate.gpus_per_run > 0)
            metrics = make_detector(config, table, run)
            leave_report(
                run.path, metrics, replace(config.report, look_up=0)
            )  # by jobs/report.py, of the run that one asks for
            stage.finish(metrics)
    run.drop_checkpoints()  # the detector has the weights
    return metrics


def _compare(config: Config, plan: _Plan) -> list[Row]:
    """The table in its three forms, and its figures."""
    started = time.monotonic()
    scored = {
        name: [read_logits(RunDirectory(plan.run(name, seed).train.output).test_logits) for seed in range(plan.seeds)]
        for name in plan.rows
    }
    _check_logits(plan, scored)
    probes = scored_probes(config, plan.run(BASELINE, 0), storage.join(plan.output, "runs"))
    scored |= {name: [one] * plan.seeds for name, one in probes.items()}  # fitted with any seed they are the same
    _check_paired(scored)
    rows = ablation_rows(
        scored, baseline=BASELINE, resamples=config.ablate.resamples, seed=config.evaluate.seed, same_as=plan.same_as
    )
    logger.info("compared %d rows in %.0f s", len(rows), time.monotonic() - started)
    storage.write_bytes(storage.join(plan.output, "ablation.md"), as_markdown(rows, BASELINE, plan.pages()).encode())
    storage.write_bytes(storage.join(plan.output, "ablation.csv"), as_csv(rows).encode())
    save_figure(storage.join(plan.output, "ablation.png"), lambda: as_png(rows, BASELINE))
    save_figure(storage.join(plan.output, "figures", "auc_bars.png"), lambda: auc_bars(rows, BASELINE))
    return rows


def _log_rows(plan: _Plan, rows: Sequence[Row], tracker: Tracker) -> None:
    """Each row of the table as an MLflow run of its own, which is what a person compares."""
    for order, row in enumerate(rows):
        run = tracker.child(row.name, storage.join(plan.output, "runs", row.name), "row")
        texts = zip((INTERVAL_TAG, DIFFERENCE_TAG, P_VALUE_TAG), short_texts(row), strict=True)
        numbers = {name: value for name, value in row_values(row).items() if isinstance(value, int | float)}
        of_probe = {"row": row.name, CHANGES: "a probe, no head"} | settings_of(plan.run(BASELINE, 0), ["features", "ablate"])
        with signals_held():  # what is begun is closed
            run.params(of_probe if row.name in PROBES else _params(plan, row.name, plan.run(row.name, 0)))
            run.tags({name: text for name, text in texts if text})
            run.metrics({"order": order} | rounded(numbers), step=0)
            run.close("FINISHED")


def _check_logits(plan: _Plan, scored: Mapping[str, Sequence[Scored]]) -> None:
    """Refuse logits that do not come to the AUC that their run has found."""
    for name, by_seed in scored.items():
        for seed, one in enumerate(by_seed):
            output = plan.run(name, seed).train.output
            place = storage.join(output, TRAIN.result_file)
            metrics = storage.read_json(place, TRAIN.result_shape, way_out=f"delete {output} to train it again")
            if metrics["test"]["auroc"] != auroc(one.logits, one.labels):
                raise RuntimeError(f"the logits in {output} are not those of its metrics.json; delete it to train it again")


def _check_paired(scored: Mapping[str, Sequence[Scored]]) -> None:
    """Refuse logits of different images: features that were embedded anew while the ablation was under way."""
    first = next(iter(scored.values()))[0]
    for name, by_seed in scored.items():
        for seed, one in enumerate(by_seed):
            same_names = one.generators == first.generators and np.array_equal(one.generator_of, first.generator_of)
            if not (same_names and np.array_equal(one.records, first.records) and np.array_equal(one.labels, first.labels)):
                raise RuntimeError(
                    f"{name}/seed-{seed} was tested on other images than the first run; delete it to train it again"
                )
