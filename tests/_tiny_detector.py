"""A detector on a tiny CLIP whose weights lie in a file, and images to try it on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _small_detector import detector_of
from PIL import Image
from safetensors.torch import save_file

from rdd.clip import ClipEncoder
from rdd.detector import Detector


@dataclass(frozen=True)
class TinyDetector:
    """Where it lies."""

    path: str
    weights: str

    def load(self) -> Detector:
        """With its encoder."""
        detector = Detector.load(self.path)
        detector.use(ClipEncoder(detector.encoder_identity["model"], self.weights))
        return detector


def write_tiny_detector(folder: Path, model: str) -> TinyDetector:
    """Write a detector with an untrained head, and the image tower that it looks through.

    Args:
        folder: to write below.
        model: of a tiny CLIP.
    """
    weights = folder / "tiny.safetensors"
    visual = ClipEncoder(model, "random")._tower.visual.state_dict()
    save_file({f"visual.{name}": tensor.contiguous() for name, tensor in visual.items()}, weights)
    metrics = {"true_positive_rate": 0.9, "true_positive_rate_interval": [0.8, 0.95], "false_positive_rate": 0.05}
    replace(detector_of(ClipEncoder(model, str(weights))), metrics={"test": metrics}).save(str(folder / "detector"))
    return TinyDetector(str(folder / "detector"), str(weights))


def write_pictures(folder: Path, number: int, *, size: int = 40) -> list[Path]:
    """Write PNG files of noise, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    places = [folder / f"{i:03d}.png" for i in range(number)]
    for place in places:
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(place)
    return places
