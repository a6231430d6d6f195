"""From the best checkpoint to the artefact: the head, its calibration, one look at the test set, figures."""

from dataclasses import asdict
from typing import Any

from rdd import storage
from rdd.calibration import calibrate
from rdd.config import Config
from rdd.detector import Detector
from rdd.evaluation.figures import histogram_figure, history_figure, roc_figure, save_figure
from rdd.evaluation.groups import Known
from rdd.evaluation.reliability_figure import reliability_figure
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored, score_part, write_logits
from rdd.features import FeatureTable
from rdd.heads import build_head
from rdd.provenance import provenance
from rdd.run_context import TrainState
from rdd.runs.directory import RunDirectory
from rdd.runs.make_reference import make_reference
from rdd.runs.trained_on import noted_generators, seen_generators, write_trained_on


def make_detector(config: Config, table: FeatureTable, run: RunDirectory) -> dict[str, Any]:
    """Make the detector of a trained run and evaluate it on its test set.

    Args:
        config: the run.
        table: its features.
        run: its directory, with both checkpoints; gets ``detector/``, ``figures/`` and ``test_logits.parquet``.

    Returns:
        What ``metrics.json`` is to hold; the caller writes it when nothing more is to come.

    Raises:
        ValueError: the test part holds one class only.
        RuntimeError: a checkpoint is missing or torn.
    """
    last, best = run.load_both()
    if best is None or last is None:
        raise RuntimeError(f"{run.path} holds no checkpoint, so there is nothing to make a detector of")
    detector = _detector(config, table, best)
    images = table.split(config.features, "test")
    scored = score_part(detector, table, images)
    calibration, options = detector.calibration, config.evaluate
    known = Known(options.families, seen_generators(detector.provenance))
    drawing: dict[str, Any] = {"resamples": options.resamples, "seed": options.seed, "known": known}
    test = evaluate(scored, calibration=calibration, **drawing)
    without_text = None
    if not detector.needs_text and detector.text_mode != "none":
        without_captions = score_part(detector, table, images, "none")
        without_text = evaluate(without_captions, calibration=calibration, **drawing)
    detector.metrics = {"test": test, "validation_auroc": best.best_auroc, "best_epoch": best.best_epoch}
    detector.save(run.detector)
    write_logits(run.test_logits, scored, table, images)
    write_trained_on(run.trained_on, table, config.features)
    write_figures(run.figures, scored, test, "test set")
    save_figure(storage.join(run.figures, "history.png"), lambda: history_figure(last.history, "training"))
    return {**detector.metrics, "test_without_text": without_text, "history": last.history}


def write_figures(folder: str, scored: Scored, report: dict[str, Any], what: str) -> None:
    """ROC, histogram and reliability diagram of a set, of which ``report`` is the evaluation."""
    threshold = report["threshold"]
    save_figure(storage.join(folder, "roc.png"), lambda: roc_figure(scored, f"ROC, {what}"))
    save_figure(storage.join(folder, "logits.png"), lambda: histogram_figure(scored, threshold, f"Logits, {what}"))
    save_figure(storage.join(folder, "reliability.png"), lambda: reliability_figure(report, f"Reliability, {what}"))


def _detector(config: Config, table: FeatureTable, best: TrainState) -> Detector:
    text_mode = table.text_mode(config.features.text_mode)
    head = build_head(config, table.width(text_mode), table.text_width, list(table.inputs.values()))
    head.load_state_dict(best.model)  # float64 weights are rounded here
    calibration = calibrate(
        head,
        table,
        images=table.split(config.features, "validation"),
        text_mode=text_mode,
        false_positive_rate=config.evaluate.false_positive_rate,
        band_false_positive_rate=config.evaluate.band_false_positive_rate,
        band_false_negative_rate=config.evaluate.band_false_negative_rate,
        levels=config.evaluate.coverage_levels,
    )
    return Detector(
        head=head,
        head_config=asdict(config.model) | {"in_features": table.width(text_mode)},
        inputs=table.inputs,
        encoder_identity=table.manifest["encoder"],
        text_mode=text_mode,
        calibration=calibration,
        reference=make_reference(config, table),
        provenance=provenance()
        | {"features_manifest_sha256": table.manifest_sha256}
        | noted_generators(table, config.features),
    )
