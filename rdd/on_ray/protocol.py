"""Protocols: a training run for each round, one after the other, and one table of what they come to."""

import hashlib
import logging
import re
from dataclasses import replace
from typing import Any

from rdd import storage
from rdd.config import Config
from rdd.config.stages import PROTOCOL
from rdd.evaluation.scores import Scored, read_logits
from rdd.features import FeatureTable
from rdd.on_ray.train import run_training
from rdd.runs.directory import RunDirectory
from rdd.runs.evaluate import run_evaluation
from rdd.runs.protocol import as_markdown, config_of, images_of_round, rounds_of, summarised
from rdd.runs.stage import begun, finished
from rdd.schema import REAL
from rdd.tracking.run_metrics import rounded

logger = logging.getLogger(__name__)


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
        tests = _tested_on_sets(config, output) if config.protocol.kind == "sets" else _rounds(config, output)
        report = summarised(tests, resamples=config.evaluate.resamples, seed=config.evaluate.seed)
        storage.write_bytes(storage.join(output, "protocol.md"), as_markdown(report).encode())
        numbers = {f"round/{_folder(name)}_auroc": row["auroc"] for name, row in report["rounds"].items()}
        for name in ("mean_auroc", "worst_auroc"):
            ends = report[f"{name}_interval"] or []
            numbers |= {name: report[name]} | {
                f"{name}_{end}": value for end, value in zip(("low", "high"), ends, strict=False)
            }
        stage.tracker.metrics(rounded(numbers), step=0)
        stage.finish(report)
    return {"output": output, **report}


def _rounds(config: Config, output: str) -> dict[str, Scored]:
    """By round, the logits of its real images and of the generators that its detector has not seen."""
    table = FeatureTable.load(config.features.path, inputs=config.features.inputs, text=False)
    rounds = rounds_of(config, [name for name in table.generators if name != REAL])
    del table
    tests = {}
    for number, one in enumerate(rounds, start=1):
        logger.info("round %d of %d: without %s", number, len(rounds), ", ".join(one.leave_out))
        run = storage.join(output, "rounds", _folder(one.name))
        run_training(config_of(config, one, run))
        tests[one.name] = images_of_round(read_logits(RunDirectory(run).test_logits), one)
    return tests


def _tested_on_sets(config: Config, output: str) -> dict[str, Scored]:
    """One training run; by feature set, the logits of all its images."""
    run = storage.join(output, "rounds", "all")
    run_training(replace(config, train=replace(config.train, output=run)))
    tests = {}
    for path in config.protocol.tests:
        evaluated = storage.join(output, "tests", _folder(path))
        options = replace(config.evaluate, run=run, output=evaluated, part="all")
        run_evaluation(replace(config, evaluate=options, features=replace(config.features, path=path)))
        tests[path] = read_logits(storage.join(evaluated, "logits.parquet"))
    return tests


def _folder(name: str) -> str:
    """A name as a folder: what it can not hold is left out, and a hash keeps two names apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[-60:]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
