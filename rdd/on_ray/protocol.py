"""Protocols: a training run for each round, one after the other, and one table of what they come to."""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rdd import storage
from rdd.config import Config
from rdd.config.parse import settings_of
from rdd.config.stages import PROTOCOL, TRAIN
from rdd.evaluation.scores import Scored, read_logits
from rdd.features import FeatureTable
from rdd.features.feature_set import FeatureSet
from rdd.features.text_modes import text_mode_for
from rdd.on_ray.train import run_training
from rdd.runs.directory import RunDirectory
from rdd.runs.evaluate import run_evaluation
from rdd.runs.protocol import as_markdown, config_of, images_of_round, interval_text, rounds_of, summarised
from rdd.runs.stage import begun, finished
from rdd.schema import REAL
from rdd.signals import signals_held
from rdd.tracking.changes import CHANGES, changes
from rdd.tracking.pages import INTERVAL_TAG, PROTOCOL_PARAM
from rdd.tracking.run_metrics import rounded
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tested:
    """A round that is trained and tested."""

    scored: Scored
    """Logits of what it was tested on."""
    run: Tracker
    """Its run in MLflow, below that of the protocol."""


def run_protocol(config: Config) -> dict[str, Any]:
    """Train and test every round; a stopped protocol goes on with the round that it was in, a finished one says what there is.

    Returns:
        ``output``, ``rounds`` with their AUCs, mean and worst with their intervals.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: a run failed; the rounds before it are kept.
    """
    output = storage.absolute(config.protocol.output)
    if (report := finished(PROTOCOL, config)) is not None:
        return {"output": output, **report}
    if config.train.cross_validate:
        raise ValueError("train.cross_validate must be false in a protocol, whose rounds share one test set, got true")
    with begun(PROTOCOL, config) as stage:
        rounds = _tested_on_sets if config.protocol.kind == "sets" else _left_out
        tests = rounds(config, output, stage.tracker)
        scored = {name: one.scored for name, one in tests.items()}
        report = summarised(scored, resamples=config.evaluate.resamples, seed=config.evaluate.seed)
        storage.write_bytes(storage.join(output, "protocol.md"), as_markdown(report).encode())
        _log(config, tests, report, stage.tracker)
        stage.tracker.artefacts(output, "protocol", only=["protocol.md"])
        stage.finish(report)
    return {"output": output, **report}


def _left_out(config: Config, output: str, tracker: Tracker) -> dict[str, _Tested]:
    """By round, the logits of its real images and of the generators that its detector has not seen."""
    table = FeatureTable.load(config.features.path, inputs=config.features.inputs, text=False)
    rounds = rounds_of(config, [name for name in table.generators if name != REAL])
    del table
    tests = {}
    for number, one in enumerate(rounds, start=1):
        logger.info("round %d of %d: without %s", number, len(rounds), ", ".join(one.leave_out))
        place = storage.join(output, "rounds", _folder(one.name))
        run = tracker.child(one.name, place, "round")
        run_training(config_of(config, one, place), child=run)
        tests[one.name] = _Tested(images_of_round(read_logits(RunDirectory(place).test_logits), one), run)
    return tests


def _tested_on_sets(config: Config, output: str, tracker: Tracker) -> dict[str, _Tested]:
    """One training run; by feature set, the logits of all its images."""
    place = storage.join(output, "rounds", "all")
    trained = replace(config, train=replace(config.train, output=place))
    run_training(trained, child=tracker.child("the detector", place, "training"))
    tests = {}
    for number, path in enumerate(config.protocol.tests, start=1):
        logger.info("test %d of %d: %s", number, len(config.protocol.tests), path)
        evaluated = storage.join(output, "tests", _folder(path))
        run = tracker.child(path, evaluated, "round")
        options = replace(config.evaluate, run=place, output=evaluated, part="all")
        run_evaluation(replace(config, evaluate=options, features=replace(config.features, path=path)), child=run)
        tests[path] = _Tested(read_logits(storage.join(evaluated, "logits.parquet")), run)
    return tests


def _log(config: Config, tests: Mapping[str, _Tested], report: Mapping[str, Any], tracker: Tracker) -> None:
    """What the protocol comes to in MLflow, and of each round its own part."""
    numbers = {f"round/{_folder(name)}_auroc": row["auroc"] for name, row in report["rounds"].items()}
    for name in ("mean_auroc", "worst_auroc"):
        ends = report[f"{name}_interval"] or []
        numbers |= {name: report[name]} | {f"{name}_{end}": value for end, value in zip(("low", "high"), ends, strict=False)}
    tracker.metrics(rounded(numbers), step=0)
    has_text = FeatureSet.open(config.features.path).manifest["text"]
    changed = changes(settings_of(config, TRAIN.sections), config, auto=text_mode_for("auto", has_text=has_text))
    params = {PROTOCOL_PARAM: config.protocol.output.rstrip("/").split("/")[-1], CHANGES: changed}
    for name, one in tests.items():
        row = report["rounds"][name]
        with signals_held():  # what is begun is closed
            one.run.params(params)  # a training run has named its changes itself, and keeps those
            one.run.metrics(rounded({"round_auroc": row["auroc"]}), step=0)
            one.run.tags({INTERVAL_TAG: interval_text(row["auroc"], row["auroc_interval"])})
            one.run.close("FINISHED")


def _folder(name: str) -> str:
    """A name as a folder: what it can not hold is left out, and a hash keeps two names apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-60:]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
