"""Evaluate a detector on any feature set, or a part of one."""

import logging
from dataclasses import asdict
from typing import Any

import torch

from rdd import storage
from rdd.config.parse import leaf_of, leaves
from rdd.config import Config
from rdd.detector import Detector
from rdd.evaluation.report import evaluate
from rdd.features import FeatureTable
from rdd.evaluation.scores import score_part
from rdd.runs.make_detector import write_figures
from rdd.runs.directory import RunDirectory
from rdd.tracking.tracker import tracked

logger = logging.getLogger(__name__)


def run_evaluation(config: Config) -> dict[str, Any]:
    """Metrics and figures of ``evaluate.run``'s detector on ``features.path``.

    Returns:
        ``output``, ``test_auroc`` with its interval, the worst generator, counts.

    Raises:
        ValueError: a path is not given, the features are of another encoder or width, or the part holds one class only.
    """
    options = config.evaluate
    given = {"evaluate.run": options.run, "evaluate.output": options.output, "features.path": config.features.path}
    for name, value in given.items():
        if not value:
            raise ValueError(f"{name} must be given, got nothing")
    detector = Detector.load(RunDirectory(options.run).detector)
    table = FeatureTable.load(config.features.path)
    detector.check_features(table)
    images = torch.arange(len(table)) if options.part == "all" else table.split(config.features, options.part)
    identity = {"evaluate": asdict(options), "features": asdict(config.features)}
    output = storage.absolute(options.output)
    with storage.owned_directory(output, identity, neutral={"evaluate.output"}):
        tags = {"rdd.features_manifest_sha256": table.manifest_sha256, "rdd.run": options.run}
        with tracked(config.tracking, job="evaluate", output=output, tags=tags) as tracker:
            tracker.params({leaf: leaf_of(config, leaf) for leaf in leaves() if leaf.split(".")[0] in identity})
            scored = score_part(detector, table, images)
            report = evaluate(scored, threshold=detector.threshold, resamples=options.resamples, seed=options.seed)
            write_figures(storage.join(output, "figures"), scored, detector.threshold, f"{options.part} of {options.run}")
            storage.write_json(storage.join(output, "metrics.json"), report)
            worst = report["worst_generator"]
            tracker.metrics({"test/auroc": report["auroc"], "test/worst_generator_auroc": worst["auroc"]}, step=0)
            tracker.artefacts(storage.join(output, "figures"), "figures")
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
