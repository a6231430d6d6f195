"""Robustness of a detector: degraded copies of its records are embedded one after the other, and it is tried on each."""

import logging
import re
from typing import Any

import numpy as np

from rdd import storage
from rdd.config import Config
from rdd.config.robustness import transforms_of
from rdd.config.stages import ROBUSTNESS, require
from rdd.detector import Detector
from rdd.evaluation.figures import save_figure
from rdd.evaluation.pairing import common_images
from rdd.evaluation.robustness import CLEAN, CopyRow, as_markdown, copy_rows
from rdd.evaluation.robustness_figure import robustness_figure
from rdd.evaluation.scores import Scored
from rdd.features.manifest import degradation_of, read_manifest
from rdd.on_ray.copies import KNOBS, bundles_of, embedded_copy
from rdd.on_ray.session import ray_session
from rdd.runs.copies import check_classes, check_detector, check_embedding, scored_copy
from rdd.runs.directory import RunDirectory
from rdd.runs.stage import begun, finished
from rdd.tracking.run_metrics import rounded
from rdd.tracking.tracker import Tracker

logger = logging.getLogger(__name__)

_FILES = ("robustness.json", "robustness.md", "robustness.png")


def run_robustness(config: Config) -> dict[str, Any]:
    """Embed the copies of every curve and try ``evaluate.run``'s detector on each; finished, say what there is.

    Returns:
        ``output``, ``copies``, the AUC of the clean images with its interval, and of the copy with the lowest AUC.

    Raises:
        ValueError: the request is wrong, or the records are not as the detector needs them.
        RuntimeError: an embedding failed; those before it are kept.
    """
    require(ROBUSTNESS, config)
    _check(config)
    if (result := finished(ROBUSTNESS, config)) is not None:
        return _summary(result)
    detector = Detector.load(RunDirectory(config.evaluate.run).detector)
    check_detector(config, detector)
    with ray_session(config.cluster, bundles_of(config), knobs=KNOBS):
        with begun(ROBUSTNESS, config, tags={"rdd.run": config.evaluate.run}) as stage:
            scored = _score_all(config, detector)
            common, left_out = common_images(scored)
            check_classes(common[CLEAN], left_out)
            clean = common.pop(CLEAN)
            options, threshold = config.evaluate, detector.calibration.threshold
            rows = copy_rows(clean, common, threshold=threshold, resamples=options.resamples, seed=options.seed)
            _write(config, rows, clean, left_out)
            _log(config, rows, stage.tracker)
            result = {
                "output": stage.output,
                "images": len(clean.logits),
                "records": len(np.unique(clean.records)),
                "images_left_out": left_out,
                "threshold": threshold,
                "curves": config.robustness.curves,
                "copies": {name: row.to_json() for name, row in rows.items()},
            }
            stage.tracker.artefacts(stage.output, "robustness", only=_FILES[1:])
            return _summary(stage.finish(result))


def _check(config: Config) -> None:
    if not config.robustness.curves:
        raise ValueError("robustness.curves must name copies, got none; jobs/configs/robustness.yaml names a list of them")
    check_embedding(config, "robustness.curves names what is embedded")
    folders: dict[str, str] = {}
    for copy in _copies(config):
        if (other := folders.setdefault(_folder(copy), copy)) != copy:
            raise ValueError(f"robustness.curves must hold copies with names that differ, got {other!r} and {copy!r}")


def _copies(config: Config) -> list[str]:
    """All copies, each once."""
    return list(dict.fromkeys(copy for copies in config.robustness.curves.values() for copy in copies))


def _folder(copy: str) -> str:
    return re.sub(r"[^a-z0-9.+_-]+", "-", copy)


def _score_all(config: Config, detector: Detector) -> dict[str, tuple[Scored, np.ndarray]]:
    """By copy, logits of its images and their keys; the clean one first, so that a wrong request fails on it."""
    copies = _copies(config)
    scored = {}
    for number, copy in enumerate((CLEAN, *copies)):
        logger.info("copy %d of %d: %s", number + 1, 1 + len(copies), copy)
        scored[copy] = scored_copy(config, detector, _embedded(config, copy))
    return scored


def _embedded(config: Config, copy: str) -> str:
    """Directory of the finished features of a copy, made now unless it is there.

    Raises:
        ValueError: ``robustness.clean`` names features that are degraded.
    """
    if copy == CLEAN and (path := config.robustness.clean):
        if (how := degradation_of(read_manifest(path)[0])) != "none":
            raise ValueError(f"robustness.clean must name features of images that are not degraded, got {path} with {how}")
        return path
    output = storage.join(config.robustness.output, "features", _folder(copy))
    return embedded_copy(config, output, [] if copy == CLEAN else transforms_of(copy))


def _write(config: Config, rows: dict[str, CopyRow], clean: Scored, left_out: int) -> None:
    """The table and the figure."""
    output, options = storage.absolute(config.robustness.output), config.evaluate
    note = (
        f"{len(clean.logits)} images of {len(np.unique(clean.records))} records ({options.part} of {options.run}); "
        f"{left_out} images that some copy lacks are left out. Intervals and p-values by {options.resamples} resamples of "
        "records, differences paired with the clean images. Rates at the detector's threshold, chosen on clean images."
    )
    table = as_markdown(config.robustness.curves, rows, note)
    storage.write_bytes(storage.join(output, "robustness.md"), table.encode())
    title = f"{options.part} of {options.run}: {len(clean.logits)} images"
    picture = storage.join(output, "robustness.png")
    save_figure(picture, lambda: robustness_figure(config.robustness.curves, rows, title))


def _log(config: Config, rows: dict[str, CopyRow], tracker: Tracker) -> None:
    """Of every curve, each copy as a step of its metrics, the clean images as step 0."""
    for name, copies in config.robustness.curves.items():
        for step, copy in enumerate((CLEAN, *copies)):
            row = rows[copy]
            numbers = {"auroc": row.auroc, "worst_generator_auroc": row.worst_generator_auroc}
            numbers |= {"true_positive_rate": row.true_positive_rate, "false_positive_rate": row.false_positive_rate}
            if row.auroc_interval is not None:
                numbers |= dict(zip(("auroc_low", "auroc_high"), row.auroc_interval, strict=True))
            if row.difference is not None:
                numbers["auroc_difference"] = row.difference.value
            tracker.metrics(rounded({f"{name}/{key}": value for key, value in numbers.items()}), step=step)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    copies = result["copies"]
    worst = min((name for name in copies if name != CLEAN), key=lambda name: copies[name]["auroc"])
    return {
        "output": result["output"],
        "copies": len(copies) - 1,
        "images": result["images"],
        "images_left_out": result["images_left_out"],
        "clean_auroc": copies[CLEAN]["auroc"],
        "clean_auroc_interval": copies[CLEAN]["auroc_interval"],
        "worst_copy": worst,
        "worst_copy_auroc": copies[worst]["auroc"],
        "worst_copy_auroc_interval": copies[worst]["auroc_interval"],
    }
