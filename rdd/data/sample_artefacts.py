"""Artefacts of the simulated generators of the sample set: four kinds, each of varying strength.

Each is of a size that is still there when CLIP has resized the image to 224 pixels, and none moves the mean colour.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Artefact = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_REFERENCE = 224
"""Pixels of the short side at which the artefacts are measured."""


def upsampling(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A regular grid, as transposed convolutions leave it: the local contrast is modulated with a period of 4 pixels."""
    height, width = image.shape[:2]
    period = 4 * min(height, width) / _REFERENCE
    phase = rng.uniform(0, 2 * np.pi, 2)
    rows = np.cos(2 * np.pi * np.arange(height) / period + phase[0])[:, None, None]
    columns = np.cos(2 * np.pi * np.arange(width) / period + phase[1])[None, :, None]
    return _add(image, _strength(rng, 6.0) * (rows + columns).astype(np.float32))


def smoothing(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Texture lost and edges kept, as a decoder of latents paints: a blend with a median-filtered copy."""
    height, width = image.shape[:2]
    scale = _REFERENCE / min(height, width)
    small = _picture(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    painted = small.filter(ImageFilter.MedianFilter(5)).resize((width, height), Image.Resampling.BICUBIC)
    share = min(_strength(rng, 0.75), 1.0)
    return (1 - share) * image + share * np.asarray(painted, dtype=np.float32)


def residual_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise that sampling did not remove: grey blobs some 3 pixels wide."""
    height, width = image.shape[:2]
    cells = np.ceil(np.array([height, width]) * _REFERENCE / min(height, width) / 3).astype(int)
    noise = Image.fromarray(rng.standard_normal(cells, dtype=np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    return _add(image, _strength(rng, 8.0) * np.asarray(noise)[:, :, None])


def bent_geometry(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines that do not stay straight: the corners of a grid of tiles are moved."""
    height, width = image.shape[:2]
    tiles = 8
    y, x = np.meshgrid(np.linspace(0, height, tiles + 1), np.linspace(0, width, tiles + 1), indexing="ij")
    corners = np.stack([x, y], axis=-1)
    moved = corners + rng.normal(0, _strength(rng, 0.025) * min(height, width), corners.shape)
    for edge in (0, tiles):  # the outline stays, or what lies beyond it would show
        moved[edge, :, 1] = corners[edge, :, 1]
        moved[:, edge, 0] = corners[:, edge, 0]
    mesh = []
    for i in range(tiles):
        for j in range(tiles):
            box = (*corners[i, j].astype(int), *corners[i + 1, j + 1].astype(int))
            quad = (*moved[i, j], *moved[i + 1, j], *moved[i + 1, j + 1], *moved[i, j + 1])
            mesh.append((tuple(map(int, box)), tuple(map(float, quad))))
    bent = _picture(image).transform((width, height), Image.Transform.MESH, mesh, Image.Resampling.BICUBIC)
    return np.asarray(bent, dtype=np.float32)


ARTEFACTS: dict[str, Artefact] = {
    "simulated-upsampling": upsampling,
    "simulated-smoothing": smoothing,
    "simulated-residual-noise": residual_noise,
    "simulated-bent-geometry": bent_geometry,
}


def _strength(rng: np.random.Generator, median: float) -> float:
    """Log-normal: half of the images get less than the median, some hardly anything."""
    return float(median * np.exp(0.5 * rng.standard_normal()))


def _add(image: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Add a pattern of mean zero, less of it near black and white, where clipping would move the mean."""
    room = np.clip(np.minimum(image, 255 - image) / 24, 0, 1)
    return image + room * pattern


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(image + 0.5, 0, 255).astype(np.uint8))
