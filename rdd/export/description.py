"""What lies beside the exported files: all that somebody without this project needs for a verdict on an image."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rdd.detector import Detector
from rdd.export.files import OUTPUT
from rdd.export.folding import FoldedHead

_STANDARDISATION = {
    "none": "the head was trained on features as they are",
    "folded": "part of the first layer, so features are given as they are",
    "kept": "a step inside the files before each token is layer-normed, so features are given as they are",
}

_RESIZED = {
    "shortest": "resize the shorter side to the size with the stated interpolation (of Pillow, which smooths when it shrinks; "
    "the longer side is rounded down), then crop the centre",
    "longest": "resize the longer side to the size with the stated interpolation, then pad the centre with fill_color",
    "squash": "resize both sides to the size with the stated interpolation (of Pillow, which smooths when it shrinks)",
}


def description(detector: Detector, head: FoldedHead, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What ``export.json`` holds.

    Args:
        detector: that was exported.
        head: as it was exported.
        files: by name, of each its hash and what was measured of it.
    """
    calibration = detector.calibration
    return {
        "format": 1,
        "model_version": detector.version,
        "how_to_use": how_to_use(detector, head),
        "files": dict(files),
        "inputs": _inputs(detector, head),
        "output": {OUTPUT: {"shape": ["batch"], "dtype": "float32", "meaning": "the higher, the likelier generated"}},
        "standardisation": _STANDARDISATION[head.standardisation],
        "preprocessing": detector.encoder_identity["preprocessing"],
        "encoder": {key: value for key, value in detector.encoder_identity.items() if key != "preprocessing"},
        "text_mode": detector.text_mode,
        "threshold": {
            "logit": calibration.threshold,
            "score": 1 / (1 + math.exp(-calibration.threshold)),
            "false_positive_rate": calibration.false_positive_rate,
        },
        "bands": None if calibration.bands is None else asdict(calibration.bands),
        "calibration": calibration.described()["calibration"],
    }


def how_to_use(detector: Detector, head: FoldedHead) -> list[str]:
    """The way from an image file to a verdict, a sentence a step."""
    preprocessing = detector.encoder_identity["preprocessing"]
    mode = preprocessing.get("resize_mode", "shortest")
    steps = [
        "Decode the image (first frame, not turned as its EXIF says) and leave its colour mode as it is.",
        f"To preprocessing.size, {preprocessing['size']}: {_RESIZED[mode]}; only then convert to RGB.",
        "Give these pixels, rows from the top, as uint8 to detector.onnx or detector.pt2, which scale and normalise them; or "
        "give the encoder's features of them, in the order of inputs.features.columns, to head.onnx or head.pt2.",
    ]
    if head.text_width:
        steps.append(
            "Give what the encoder's text tower makes of the caption of each image as text_features, as wide as embed_dim and "
            f"{'of length 1' if detector.encoder_identity['normalized'] else 'not scaled to length 1'}."
        )
    return [
        *steps,
        "The score is 1 / (1 + exp(-logit)); the probability of being generated, where the share of generated images is "
        "calibration.prior, is 1 / (1 + exp(-(calibration.slope * logit + calibration.offset))).",
        "The verdict: likely generated where logit >= bands.likely_generated_from, else likely real where "
        "logit <= bands.likely_real_to, else uncertain. It is a statistical estimate and must not be the sole basis of a "
        "decision.",
    ]


def _inputs(detector: Detector, head: FoldedHead) -> dict[str, Any]:
    size = detector.encoder_identity["preprocessing"]["size"]
    height, width = (size, size) if isinstance(size, int) else size
    features: dict[str, Any] = {"shape": ["batch", sum(detector.inputs.values())], "dtype": "float32"}
    inputs = {
        "pixels": {"of": "detector", "shape": ["batch", height, width, 3], "dtype": "uint8"},
        "features": {"of": "head", **features, "columns": detector.inputs},
    }
    if head.text_width:
        inputs["text_features"] = {"of": "head and detector", "shape": ["batch", head.text_width], "dtype": "float32"}
    return inputs
