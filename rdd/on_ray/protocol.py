"""Protocols: a training run for each round, one after the other, and one table of what they come to."""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
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
from rdd.runs.protocol import Outcome, as_markdown, config_of, images_of_round, interval_text, outcome_of, rounds_of, summarised
from rdd.runs.stage import begun, finished
from rdd.schema import REAL
from rdd.shapes import NUMBER, Shape
from rdd.signals import signals_held
from rdd.tracking.changes import CHANGES, changes
from rdd.tracking.pages import INTERVAL_TAG, PROTOCOL_PARAM
from rdd.tracking.run_metrics import rounded
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


_ROUND: Shape = {"auroc": NUMBER, "auroc_interval": (list, type(None)), "images": int}
"""Of the file that a round leaves when MLflow has been told of it."""


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
        report = summarised(rounds(config, output, stage.tracker))
        storage.write_bytes(storage.join(output, "protocol.md"), as_markdown(report).encode())
        _log(report, stage.tracker)
        stage.tracker.artefacts(output, "protocol", only=["protocol.md"])
        stage.finish(report)
    return {"output": output, **report}


def _left_out(config: Config, output: str, tracker: Tracker) -> dict[str, Outcome]:
    """By round, how its detector ranks real images and those of the generators that it has not seen."""
    table = FeatureTable.load(config.features.path, inputs=config.features.inputs, text=False)
    rounds = rounds_of(config, [name for name in table.generators if name != REAL])
    del table
    tests = {}
    for number, one in enumerate(rounds, start=1):
        logger.info("round %d of %d: without %s", number, len(rounds), ", ".join(one.leave_out))
        place = storage.join(output, "rounds", _folder(one.name))
        run = tracker.child(one.name, place, "round")
        of_round = config_of(config, one, place)
        run_training(of_round, child=run)
        scored = images_of_round(read_logits(RunDirectory(place).test_logits), one)
        tests[one.name] = _come_to(of_round, scored, place, run)
    return tests


def _tested_on_sets(config: Config, output: str, tracker: Tracker) -> dict[str, Outcome]:
    """One training run; by feature set, how the detector ranks all its images."""
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
        scored = read_logits(storage.join(evaluated, "logits.parquet"))
        tests[path] = _come_to(trained, scored, evaluated, run)
    return tests


def _come_to(config: Config, scored: Scored, place: str, run: Tracker) -> Outcome:
    """What a round comes to, which MLflow is told of once: a run that is begun again gets another end."""
    one = outcome_of(scored, resamples=config.evaluate.resamples, seed=config.evaluate.seed)
    result = {"auroc": one.auroc, "auroc_interval": one.interval, "images": one.images}
    note = storage.join(place, "round.json")
    if storage.exists(note) and storage.read_json(note, _ROUND, way_out=f"delete {note} to write it anew") == result:
        return one
    has_text = FeatureSet.open(config.features.path).manifest["text"]
    changed = changes(settings_of(config, TRAIN.sections), config, auto=text_mode_for("auto", has_text=has_text))
    with signals_held():  # what is begun is closed
        run.params({PROTOCOL_PARAM: config.protocol.output.rstrip("/").split("/")[-1], CHANGES: changed})
        run.metrics(rounded({"round_auroc": one.auroc}), step=0)
        run.tags({INTERVAL_TAG: interval_text(one.auroc, one.interval)})
        run.close("FINISHED")
    storage.write_json(note, result)
    return one


def _log(report: Mapping[str, Any], tracker: Tracker) -> None:
    """What the protocol comes to in MLflow."""
    numbers = {f"round/{_folder(name)}_auroc": row["auroc"] for name, row in report["rounds"].items()}
    for name in ("mean_auroc", "worst_auroc"):
        ends = report[f"{name}_interval"] or []
        numbers |= {name: report[name]} | {f"{name}_{end}": value for end, value in zip(("low", "high"), ends, strict=False)}
    tracker.metrics(rounded(numbers), step=0)


def _folder(name: str) -> str:
    """A name as a folder: what it can not hold is left out, and a hash keeps two names apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-60:]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
