"""Which parts of a picture move a detector's logit: each is covered in turn, and the map is drawn over the picture.

A cover is itself something that no training image has, and may move the logit by being there: then all parts lean to one side,
and the differences between parts are what tells.

Reference:
    Zeiler & Fergus, Visualizing and understanding convolutional networks, ECCV 2014, section 4.2.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELLS = 7
"""Parts a side, unless others are asked for: of 224 pixels each has 32, two patches of ViT-B/16. They do not overlap."""

_REAL, _GENERATED = (33, 102, 172), (178, 24, 43)
"""Blue and red, the ends of ColorBrewer's RdBu, which people with any colour vision tell apart."""
_FULL = 0.7
"""Share of the colour where the logit falls or rises most; the rest is the picture in grey."""
_LEAST_SIDE = 448
"""Pixels of the shorter side of the drawing, at least."""
_STRIP, _BAR, _FONT = 30, 120, 14
"""Pixels: height of the strip below the picture, width of the colours in it, and size of its letters."""


@dataclass(frozen=True, eq=False)
class Occlusion:
    """How the logit of a picture falls where a part of it is covered with the picture's mean colour."""

    pixels: np.ndarray
    """``(height, width, 3)`` uint8: the picture as the encoder saw it."""
    logit_falls: np.ndarray
    """``(rows, columns)`` float64: the logit of the whole picture less the one with this part covered; above 0 the part speaks
    for generated, below 0 for real."""

    @property
    def scale(self) -> float:
        """The fall or rise that is drawn in full colour: the largest one."""
        return float(np.abs(self.logit_falls).max())

    @property
    def legend(self) -> str:
        """What the colours of this drawing mean."""
        return (
            "red: the logit falls when this part is covered, so it speaks for generated; blue: it rises, so the part speaks "
            f"for real; in full colour it changes by {self.scale:.2g}"
        )

    @property
    def png(self) -> bytes:
        """The picture in grey with the parts in colour, and a strip that says what the colours mean."""
        height, width = self.pixels.shape[:2]
        factor = -(-_LEAST_SIDE // min(height, width))
        grey = Image.fromarray(self.pixels).convert("L").resize((width * factor, height * factor), Image.Resampling.BICUBIC)
        signed = self.logit_falls / (self.scale or 1.0)
        rows, columns = (_part_of(size, cells) for size, cells in zip((height, width), signed.shape, strict=True))
        by_pixel = np.repeat(np.repeat(signed[rows][:, columns], factor, axis=0), factor, axis=1)
        drawing = np.concatenate([_coloured(np.asarray(grey, dtype=np.float64), by_pixel), self._strip(width * factor)])
        buffer = io.BytesIO()
        Image.fromarray(drawing).save(buffer, format="PNG")
        return buffer.getvalue()

    def _strip(self, width: int) -> np.ndarray:
        """``(height, width, 3)``: the colours from real to generated between the numbers that they stand for."""
        colours = _coloured(np.full((_STRIP // 2, _BAR), 255.0), np.tile(np.linspace(-1, 1, _BAR), (_STRIP // 2, 1)))
        strip = Image.new("RGB", (width, _STRIP), "white")
        strip.paste(Image.fromarray(colours), ((width - _BAR) // 2, _STRIP // 4))
        draw, font = ImageDraw.Draw(strip), ImageFont.load_default(_FONT)
        gap = (width + _BAR) // 2 + 8
        draw.text((width - gap, _STRIP // 2), f"for real  -{self.scale:.2g}", "black", font, anchor="rm")
        draw.text((gap, _STRIP // 2), f"+{self.scale:.2g}  for generated", "black", font, anchor="lm")
        return np.asarray(strip)


def occlusion(pixels: np.ndarray, logits_of: Callable[[np.ndarray], np.ndarray], *, cells: int = CELLS) -> Occlusion:
    """Cover each part of a picture in turn.

    Args:
        pixels: ``(height, width, 3)`` uint8 as the encoder sees them.
        logits_of: takes ``(N, height, width, 3)`` uint8, the picture itself first; gives ``(N,)``.
        cells: parts a side, as equal as whole pixels can be, from 1 to the shorter side; it takes ``cells`` x ``cells`` + 1
            passes of the encoder.

    Raises:
        ValueError: there are no such parts.
    """
    if not 1 <= cells <= min(pixels.shape[:2]):
        raise ValueError(f"cells must lie in [1, {min(pixels.shape[:2])}], the pixels of the shorter side, got {cells}")
    rows, columns = (_part_of(size, cells) for size in pixels.shape[:2])
    pictures = np.repeat(pixels[None], cells * cells + 1, axis=0)
    mean = np.round(pixels.mean(axis=(0, 1))).astype(np.uint8)
    for part in range(cells * cells):
        covered = np.ix_(rows == part // cells, columns == part % cells)
        pictures[part + 1][covered] = mean
    whole, *others = logits_of(pictures).tolist()
    return Occlusion(pixels, whole - np.array(others).reshape(cells, cells))


def _part_of(size: int, cells: int) -> np.ndarray:
    """``(size,)``: to which of the parts along a side each pixel belongs."""
    return np.arange(size) * cells // size


def _coloured(grey: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """``(height, width, 3)`` uint8: grey values in [0, 255], blue to where ``signed`` is -1 and red to where it is 1."""
    colour = np.where(signed[..., None] > 0, np.array(_GENERATED, dtype=np.float64), np.array(_REAL, dtype=np.float64))
    share = _FULL * np.abs(signed[..., None])
    return np.round((1 - share) * grey[..., None] + share * colour).astype(np.uint8)
