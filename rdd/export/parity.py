"""Whether an exported file gives the detector's own logits: on random inputs, and on inputs that are like images."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rdd.clip import ClipEncoder
from rdd.detector import Detector
from rdd.export.files import Runner

BATCHES = (1, 3, 17)
"""Sizes of the batches that are tried."""

Probe = tuple[Mapping[str, np.ndarray], np.ndarray]
"""Named inputs, and the detector's logits of them."""


def largest_difference(run: Runner, probes: list[Probe]) -> float:
    """Largest difference of logits between a file and the detector, of logits beyond 1 as a share of them.

    A difference of t in this sense moves no score by more than t / 4.
    """
    differences = []
    for inputs, expected in probes:
        given = run(inputs).astype(np.float64)
        if given.shape != expected.shape:
            raise RuntimeError(f"the exported file must give logits of shape {expected.shape}, got {given.shape}")
        differences.append((np.abs(given - expected) / np.maximum(1.0, np.abs(expected))).max())
    return float(np.max(differences))  # NaN, which is no number below any tolerance, goes through


def head_probes(detector: Detector, text_width: int, pictured: Tensor | None, *, seed: int = 0) -> Iterator[Probe]:
    """Features to try a head with, spread as those that it was trained on where its moments are known.

    Args:
        detector: whose head it is.
        text_width: columns of its text, 0 where it is exported without.
        pictured: ``(N, image width)`` features of images, where there are any.
        seed: of the random ones.
    """
    generator = torch.Generator().manual_seed(seed)
    width = sum(detector.inputs.values()) + text_width
    head = detector.head
    for number in BATCHES:
        features = torch.randn(number, width, generator=generator)
        if head.standardize:
            features = head.mean[:width] + head.deviation[:width] * features
        yield _probe(detector, {"features": features[:, : width - text_width]}, features, text_width)
    if pictured is not None:
        features = torch.cat([pictured, torch.randn(len(pictured), text_width, generator=generator)], dim=1)
        yield _probe(detector, {"features": pictured}, features, text_width)


def pixel_probes(detector: Detector, encoder: ClipEncoder, text_width: int, *, seed: int = 0) -> Iterator[Probe]:
    """Pixels to try a tower with: noise, and clouds that are as smooth as photographs; arguments as :func:`head_probes`."""
    generator = torch.Generator().manual_seed(seed)
    for number in BATCHES:
        for pixels in (_noise(encoder, number, generator), clouds(encoder, number, generator)):
            features = image_features(detector, encoder, pixels)
            features = torch.cat([features, torch.randn(number, text_width, generator=generator)], dim=1)
            yield _probe(detector, {"pixels": pixels}, features, text_width)


def image_features(detector: Detector, encoder: ClipEncoder, pixels: Tensor) -> Tensor:
    """What the head takes of images, ``(N, image width)`` float32."""
    by_name = encoder.image_features(pixels, list(detector.inputs))
    return torch.cat([by_name[name] for name in detector.inputs], dim=1)


def clouds(encoder: ClipEncoder, number: int, generator: torch.Generator) -> Tensor:
    """Pixels ``(number, height, width, 3)`` uint8 whose neighbours are alike: coarse noise, enlarged, and a little grain."""
    height, width = encoder.preprocessor.height, encoder.preprocessor.width
    coarse = torch.rand(number, 3, 7, 7, generator=generator)
    smooth = functional.interpolate(coarse, size=(height, width), mode="bicubic")
    grain = 0.02 * torch.randn(number, 3, height, width, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _noise(encoder: ClipEncoder, number: int, generator: torch.Generator) -> Tensor:
    shape = (number, encoder.preprocessor.height, encoder.preprocessor.width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _probe(detector: Detector, inputs: dict[str, Tensor], features: Tensor, text_width: int) -> Probe:
    if text_width:
        inputs = inputs | {"text_features": features[:, -text_width:]}
    return {name: values.contiguous().numpy() for name, values in inputs.items()}, detector.logits(features)
