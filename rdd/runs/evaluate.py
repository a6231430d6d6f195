"""Evaluate a detector on any feature set, or a part of one."""

import logging
from typing import Any

import torch

from rdd import storage
from rdd.config import Config
from rdd.config.stages import EVALUATE
from rdd.detector import Detector
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import score_part
from rdd.features import FeatureTable
from rdd.features.files import identity_of, read_manifest
from rdd.hashing import sha256_bytes
from rdd.runs.directory import RunDirectory
from rdd.runs.make_detector import write_figures
from rdd.runs.stage import begun, finished
from rdd.tracking.run_metrics import rounded

logger = logging.getLogger(__name__)


def run_evaluation(config: Config) -> dict[str, Any]:
    """Metrics and figures of ``evaluate.run``'s detector on ``features.path``; finished, say what there is.

    Returns:
        ``output``, ``test_auroc`` with its interval, the worst generator, counts.

    Raises:
        ValueError: a path is not given, the features are of another encoder or width, or the part holds one class only.
    """
    options, output = config.evaluate, storage.absolute(config.evaluate.output)
    report = finished(EVALUATE, config)
    evaluated = _identity(config)
    if report is not None:
        if report.get("evaluated") == evaluated:
            return _summary(output, report)
        logger.info("the detector or the features have changed since: evaluating again")
    detector = Detector.load(RunDirectory(options.run).detector)
    table = FeatureTable.load(config.features.path)
    detector.check_features(table)
    images = torch.arange(len(table)) if options.part == "all" else table.split(config.features, options.part)
    tags = {"rdd.features_manifest_sha256": table.manifest_sha256, "rdd.run": options.run}
    with begun(EVALUATE, config, tags=tags) as stage:
        scored, threshold = score_part(detector, table, images), detector.calibration.threshold
        report = evaluate(scored, threshold=threshold, resamples=options.resamples, seed=options.seed)
        figures = storage.join(output, "figures")
        write_figures(figures, scored, threshold, f"{options.part} of {options.run}")
        worst = report["worst_generator"]
        stage.tracker.metrics(rounded({"test/auroc": report["auroc"], "test/worst_generator_auroc": worst["auroc"]}), step=0)
        stage.tracker.artefacts(figures, "figures")
        stage.finish(report | {"evaluated": evaluated})
    return _summary(output, report)


def _identity(config: Config) -> dict[str, str]:
    """What is evaluated, on what: a detector trained anew and features embedded anew have another."""
    weights = storage.join(RunDirectory(config.evaluate.run).detector, "detector.safetensors")
    manifest, _ = read_manifest(config.features.path)
    return {
        "detector_sha256": sha256_bytes(storage.read_bytes(weights)) if storage.exists(weights) else "",
        "features": identity_of(config.features.path, manifest),
    }


def _summary(output: str, report: dict[str, Any]) -> dict[str, Any]:
    return {
        "output": output,
        "test_auroc": report["auroc"],
        "test_auroc_interval": report["auroc_interval"],
        "worst_generator": report["worst_generator"]["name"],
        "worst_generator_auroc": report["worst_generator"]["auroc"],
        "balanced_accuracy": report["balanced_accuracy"],
        "real_images": report["real_images"],
        "generated_images": report["generated_images"],
    }
