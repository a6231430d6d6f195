"""Evaluate a detector on any feature set, or a part of one."""

import logging
from typing import Any

import torch
from torch import Tensor

from rdd import storage
from rdd.config import Config
from rdd.config.stages import EVALUATE
from rdd.detector import Detector
from rdd.evaluation.coverage import warn_of_other_images
from rdd.evaluation.figures import save_figure
from rdd.evaluation.groups import Known
from rdd.evaluation.reliability_figure import reliability_figure
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import score_part, write_logits
from rdd.features import FeatureTable
from rdd.features.feature_set import identity_if_there
from rdd.features.node_map import map_folder
from rdd.hashing import sha256_bytes
from rdd.runs.directory import RunDirectory
from rdd.runs.make_detector import write_figures
from rdd.runs.report import PAGE, leave_report
from rdd.runs.shifted import read_shift_labels, shift_report
from rdd.runs.stage import begun, finished
from rdd.runs.trained_on import refuse_trained_on, seen_generators
from rdd.tracking.course import Course
from rdd.tracking.run_metrics import report_metrics, rounded
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


def run_evaluation(config: Config, *, child: Tracker | None = None) -> dict[str, Any]:
    """Metrics and figures of ``evaluate.run``'s detector on ``features.path``; finished, say what there is.

    Args:
        config: the request.
        child: its MLflow run, where it is one below another's; by default one of its own.

    Returns:
        ``output``, ``<part>_auroc`` with its interval, the worst generator, counts; with ``evaluate.shift_labels`` what the
        shift is and does, apart under ``with_shift``.

    Raises:
        ValueError: a path is not given, the features are of another encoder or lack one of its inputs, the part holds one class
            only, ``test`` or ``all`` holds records that the run was trained on, or the labels for a shift can not be used.
    """
    options, output = config.evaluate, storage.absolute(config.evaluate.output)
    report = finished(EVALUATE, config)
    evaluated = _identity(config)
    if report is not None:
        before = report.get("evaluated", {})
        if all(identity in ("", before.get(name)) for name, identity in evaluated.items()):
            return _summary(output, options.part, report)
        logger.info("the detector or the features have changed since: evaluating again")
    detector = Detector.load(RunDirectory(options.run).detector)
    with_text = detector.text_mode != "none"
    table = FeatureTable.load(config.features.path, inputs=list(detector.inputs), text=with_text, shared=map_folder())
    detector.check_features(table)
    run = RunDirectory(options.run)
    images = images_of_part(config, run, table)
    generated = int(table.labels[images].sum())
    if generated in (0, len(images)):
        raise ValueError(f"both classes must be present, got {len(images) - generated} real and {generated} generated images")
    labels = read_shift_labels(options.shift_labels, table, images) if options.shift_labels else None
    tags = {"rdd.features_manifest_sha256": table.manifest_sha256, "rdd.run": options.run}
    with begun(EVALUATE, config, tags=tags, child=child) as stage:
        course = Course(stage.tracker, "images")
        everything, calibration = score_part(detector, table, images), detector.calibration
        course.end(len(images))
        scored = everything if labels is None else labels.counted(everything)
        counted = images if labels is None else images[torch.from_numpy(~labels.left_out)]
        write_logits(storage.join(output, "logits.parquet"), scored, table, counted)
        known = Known(options.families, seen_generators(detector.provenance))
        drawing: dict[str, Any] = {"resamples": options.resamples, "seed": options.seed, "known": known}
        report = evaluate(scored, calibration=calibration, **drawing)
        _say_of_bands(report, options.part)
        figures, what = storage.join(output, "figures"), f"{options.part} of {options.run}"
        write_figures(figures, scored, report, what)
        if labels is not None:
            shift = shift_report(everything, labels, calibration=calibration, report=report, **drawing)
            place, moved = storage.join(figures, "reliability_with_shift.png"), shift["with_shift"]
            save_figure(place, lambda: reliability_figure(moved, f"Reliability with shift, {what}"))
            report["shift"] = shift
        stage.tracker.metrics(rounded(report_metrics(report, options.part)), step=0)
        stage.tracker.artefacts(figures, "figures")
        report = report | {"evaluated": evaluated}
        leave_report(output, report, config.report)
        stage.tracker.artefacts(output, "report", only=(PAGE,))
        stage.finish(report)
    return _summary(output, options.part, report)


def _say_of_bands(report: dict[str, Any], part: str) -> None:
    """What a reader of the numbers should know of the detector's bands."""
    if report["bands"] is None:
        logger.info(
            "the detector was made before there were bands, so none are reported; delete metrics.json of the run and start it "
            "again, which makes the detector anew"
        )
    warn_of_other_images(report["coverage"], part)


def images_of_part(config: Config, run: RunDirectory, table: FeatureTable) -> Tensor:
    """The images of ``evaluate.part``, split as the run was, whatever split the request names.

    Raises:
        ValueError: ``test`` or ``all`` holds records that the run was trained on.
    """
    part, split = config.evaluate.part, run.config().features
    images = torch.arange(len(table)) if part == "all" else table.split(split, part)
    if part in ("test", "all"):
        refuse_trained_on(run.trained_on, table, images)
    return images


def _identity(config: Config) -> dict[str, str]:
    """What is evaluated, on what, so that a detector, features or labels made anew are told; "" where one is gone."""
    labels = config.evaluate.shift_labels
    return ({"shift_labels_sha256": _sha256_if_there(labels)} if labels else {}) | {
        "detector_sha256": detector_sha256(config.evaluate.run),
        "features": identity_if_there(config.features.path) or "",
    }


def detector_sha256(run: str) -> str:
    """Of a run's detector, threshold and bands included; "" where it is gone."""
    return _sha256_if_there(storage.join(RunDirectory(run).detector, "detector.json"))  # it holds the hash of the weights


def _sha256_if_there(path: str) -> str:
    return sha256_bytes(storage.read_bytes(path)) if storage.exists(path) else ""


def _summary(output: str, part: str, report: dict[str, Any]) -> dict[str, Any]:
    """The headline; of a set with seen and unseen generators the AUC of each kind, never of both together."""
    novelty = report.get("novelty", {})
    apart = {f"{part}_{kind}": values for kind, values in novelty.items()}
    headline = apart if len(apart) > 1 else {part: report}
    numbers = {f"{name}_{what}": values[what] for name, values in headline.items() for what in ("auroc", "auroc_interval")}
    return {
        "output": output,
        **numbers,
        "worst_generator": report["worst_generator"]["name"],
        "worst_generator_auroc": report["worst_generator"]["auroc"],
        "balanced_accuracy": report["balanced_accuracy"],
        "real_images": report["real_images"],
        "generated_images": report["generated_images"],
        **({"with_shift": _summary_of_shift(report["shift"])} if "shift" in report else {}),
    }


def _summary_of_shift(shift: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: shift["with_shift"][name] for name in ("balanced_accuracy", "calibration_error")}
    return {"log_odds": shift["log_odds"], "log_odds_interval": shift["log_odds_interval"], **numbers}
