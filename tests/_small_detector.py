"""A detector of a tiny head, as one is saved now and as it was in earlier formats."""

import json
from dataclasses import asdict
from pathlib import Path

import torch

from rdd.bands import Bands, ConformalSet
from rdd.calibration import Calibration
from rdd.clip import ClipEncoder
from rdd.detector import Detector
from rdd.hashing import sha256_bytes
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


def as_format(folder: Path, number: int) -> None:
    """Rewrite a detector as it was before there was a reference; in format 3 before bands, in 2 before inputs had names."""
    place = folder / "detector.json"
    described = json.loads(place.read_text()) | {"format": number}
    names = ["head_config", "encoder_identity", "text_mode", "threshold", "false_positive_rate", "calibration"]
    names += (["inputs"] if number > 2 else []) + (["bands"] if number > 3 else [])
    for name in {"inputs", "bands", "reference"} - set(names):
        del described[name]
    parts = json.dumps({name: described[name] for name in names}, sort_keys=True)
    weights = sha256_bytes((folder / "detector.safetensors").read_bytes())
    place.write_text(json.dumps(described | {"parts_sha256": sha256_bytes(weights.encode() + parts.encode())}))
