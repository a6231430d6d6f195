"""From the best checkpoint to the artefact: threshold and calibration on validation, one look at the test set, figures."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression

from rdd import storage
from rdd.engine import TrainState
from rdd.config import Config
from rdd.detector import Detector
from rdd.engine import build_head, predict
from rdd.evaluation.figures import histogram_figure, history_figure, roc_figure
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored, score_part, write_logits
from rdd.features import FeatureTable, TextMode
from rdd.metrics import threshold_at
from rdd.provenance import provenance
from rdd.runs.directory import RunDirectory


def finish_run(config: Config, table: FeatureTable, run: RunDirectory) -> dict[str, Any]:
    """Make the detector of a trained run and evaluate it on its test set.

    Args:
        config: the run.
        table: its features.
        run: its directory, with both checkpoints; gets ``detector/``, ``figures/``, ``test_logits.parquet`` and,
            last, ``metrics.json``.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: the test part holds one class only.
        RuntimeError: a checkpoint is missing or torn.
    """
    best, last = run.load("best"), run.load("last")
    if best is None or last is None:
        raise RuntimeError(f"{run.path} holds no checkpoint, so there is nothing to make a detector of")
    detector = _detector(config, table, best)
    images = table.split(config.features, "test")
    scored = score_part(detector, table, images)
    options = config.evaluate
    test = evaluate(scored, threshold=detector.threshold, resamples=options.resamples, seed=options.seed)
    without_text = None
    if not detector.needs_text and detector.text_mode != "none":
        blind = score_part(detector, table, images, "none")
        without_text = evaluate(blind, threshold=detector.threshold, resamples=options.resamples, seed=options.seed)
    detector.metrics = {"test": test, "validation_auroc": best.best_auroc, "best_epoch": best.best_epoch}
    detector.save(run.detector)
    write_figures(run.figures, scored, detector.threshold, "test set")
    storage.write_bytes(storage.join(run.figures, "history.png"), history_figure(last.history, "training"))
    write_logits(run.test_logits, scored, table)
    metrics = {**detector.metrics, "test_without_text": without_text, "history": last.history}
    storage.write_json(run.metrics, metrics)
    return metrics


def write_figures(folder: str, scored: Scored, threshold: float, what: str) -> None:
    """ROC and histogram of a set."""
    storage.write_bytes(storage.join(folder, "roc.png"), roc_figure(scored, f"ROC, {what}"))
    storage.write_bytes(storage.join(folder, "logits.png"), histogram_figure(scored, threshold, f"Logits, {what}"))


def _detector(config: Config, table: FeatureTable, best: TrainState) -> Detector:
    head = build_head(config, table.width(config.features.text_mode))
    head.load_state_dict(best.model)  # float64 weights are rounded here
    head_config = asdict(config.model) | {"in_features": table.width(config.features.text_mode)}
    images = table.split(config.features, "validation")
    logits = predict(head, table, images, config.features.text_mode).numpy()
    labels = table.labels[images].numpy()
    rate = config.evaluate.false_positive_rate
    # the next number above, since an image at the threshold is called generated
    threshold = float(np.nextafter(threshold_at(logits[labels == 0], rate), np.inf))
    platt = LogisticRegression().fit(logits[:, None], labels)
    return Detector(
        head=head,
        head_config=head_config,
        encoder_identity=table.manifest["encoder"],
        text_mode=config.features.text_mode,
        threshold=threshold,
        false_positive_rate=rate,
        calibration={
            "slope": float(platt.coef_[0, 0]),
            "offset": float(platt.intercept_[0]),
            "prior": float(labels.mean()),
        },
        provenance=provenance() | {"features_manifest_sha256": table.manifest_sha256},
    )
