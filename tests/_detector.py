"""A small detector with bands, on a seeded CLIP that runs in milliseconds."""

from dataclasses import asdict

import torch

from rdd.bands import Bands, ConformalSet
from rdd.calibration import Calibration
from rdd.clip import ClipEncoder
from rdd.detector import Detector
from rdd.model import DetectorHead

BANDS = Bands(
    likely_real_to=-0.5,
    likely_generated_from=1.5,
    between="both",
    false_positive_rate=0.01,
    false_negative_rate=0.05,
    real_records=99,
    generated_records=99,
    conformal=(ConformalSet(level=0.9, real_below=1.0, generated_above=0.0),),
)


def detector_of(encoder: ClipEncoder, text_mode: str = "none") -> Detector:
    """An untrained detector of one encoder's features."""
    torch.manual_seed(0)
    config = {"in_features": 32 if text_mode == "none" else 64, "hidden": 8, "layers": 2, "dropout": 0.1, "activation": "relu"}
    return Detector(
        head=DetectorHead(**config).eval(),
        head_config=config,
        inputs={"projected": 32},
        encoder_identity=asdict(encoder.identity),
        text_mode=text_mode,
        calibration=Calibration(threshold=0.25, false_positive_rate=0.05, slope=2.0, offset=-1.0, prior=0.8, bands=BANDS),
    )
