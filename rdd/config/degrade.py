"""What a list of degradations says: the transforms that there are, the bounds of their strengths, and how one is written.

    jpeg 50                 JPEG of quality 50
    jpeg 30 to 100          of a quality drawn for each image, evenly between the two
    jpeg 50 or 100 p 0.5    of one of the two, and only for each second image
    grayscale               without a strength
    ai_genbench             a composition of others, by name

What they do to an image stands in ``rdd/data/degrade.py``.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rdd.config.checks import check


@dataclass(frozen=True)
class Strength:
    """The strength of a transform: its bounds, and whether it is a whole number."""

    low: float
    high: float
    whole: bool = False


TRANSFORMS: Mapping[str, Strength | None] = {
    "jpeg": Strength(1, 100, whole=True),
    "webp": Strength(1, 100, whole=True),
    "blur": Strength(0, 20),
    "sharpen": Strength(0, 10),
    "scale": Strength(0.05, 4),
    "down_up": Strength(0.05, 1),
    "shorter_side": Strength(16, 2048, whole=True),
    "square": Strength(16, 2048, whole=True),
    "aspect": Strength(0.2, 5),
    "crop": Strength(0.05, 1),
    "crop_pixels": Strength(16, 2048, whole=True),
    "centre_crop": Strength(16, 2048, whole=True),
    "centre_square": Strength(16, 2048, whole=True),
    "resized_crop": Strength(16, 2048, whole=True),
    "pad": Strength(0, 2),
    "rotate": Strength(-360, 360),
    "skew": Strength(-2, 2),
    "noise": Strength(0, 1),
    "shuffle": Strength(0, 1),
    "stripes": Strength(0, 1),
    "opacity": Strength(0, 1),
    "brightness": Strength(0, 5),
    "contrast": Strength(0, 5),
    "saturation": Strength(0, 5),
    "screenshot": Strength(0.1, 4),
    "grayscale": None,
    "flip": None,
    "code": Strength(0, 19, whole=True),
}
"""By name, the bounds of the strength; None where there is none. ``code`` draws from the operations of :data:`CODE`."""

PRESETS: Mapping[str, tuple[str, ...]] = {
    "ai_genbench": (
        "centre_crop 1080",
        "grayscale p 0.1",
        "jpeg 50 or 100 p 0.5",
        "noise 0.015 to 0.075 p 0.3",
        "jpeg 50 or 100 p 0.2",
        "resized_crop 256 to 512 p 0.25",
        "jpeg 50 or 100 p 0.1",
    ),
}
"""Compositions by name.

``ai_genbench``: what AI-GenBench makes of each image that it evaluates on, from its code (MI-BioLab/AI-GenBench, in
``training_and_evaluation``: ``AIGenBenchPipeline.mandatory_val_preprocessing``). Of its qualities [50, 101] that code chooses
one of the two, where a range may have been meant, and JPEG takes 101 for 100. It encodes by Pillow or OpenCV, here Pillow does.
"""

CODE = (
    "blur 0.1 to 2",
    "brightness 0.5 to 2",
    "aspect 0.75 to 2",
    "down_up 0.3 to 1",
    "rotate 90 to 270",
    "contrast 0.5 to 1.5",
    "saturation 0.5 to 1.5",
    "jpeg 40 to 100",
    "grayscale",
    "flip",
    "opacity 0.2 to 1",
    "stripes 0.05 to 0.35",
    "pad 0.01 to 0.25",
    "square 64 to 512",
    "crop_pixels 64 to 512",
    "scale 0.5 to 1.5",
    "sharpen 1.2 to 2",
    "shuffle 0 to 0.35",
    "skew -1 to 1",
)
"""The operations of CoDE, from its code (aimagelab/CoDE, ``src/dataset/CustomTransform.py``, ``MassiveTransform``, with the
defaults of ``src/args_train.py``, where N is 1). ``code N`` draws a number from 0 to N, and so many of them, each at most once,
in this order. Stripes, skew and resizing are written anew here, in AugLy's manner but not to its pixel."""

_WRITTEN = re.compile(
    r"(?P<name>[a-z_]+)"
    r"(?: (?P<low>[-+.\de]+)(?: (?P<between>to|or) (?P<high>[-+.\de]+))?)?"
    r"(?: p (?P<chance>[-+.\de]+))?"
)
_FORM = "be written as 'NAME', 'NAME STRENGTH', 'NAME LOW to HIGH' or 'NAME ONE or OTHER', with or without ' p PROBABILITY'"


@dataclass(frozen=True)
class Degradation:
    """One transform of a list: which, how strongly, and for which share of the images."""

    name: str
    low: float = 0.0
    high: float = 0.0
    """The strength is drawn evenly from [low, high]."""
    either: bool = False
    """It is one of the two instead."""
    chance: float = 1.0
    """Probability, in [0, 1], that an image gets it."""

    @property
    def whole(self) -> bool:
        """Whether the strength is a whole number."""
        strength = TRANSFORMS[self.name]
        return strength is not None and strength.whole


def degradations(texts: Iterable[str], leaf: str = "embed.degrade") -> list[Degradation]:
    """The transforms that a list names, with compositions spelled out.

    Args:
        texts: such as ``["jpeg 30 to 100 p 0.5", "blur 2"]``.
        leaf: dotted path of the setting, for the message.

    Raises:
        ValueError: an unknown transform, a strength out of its bounds, or another form.

    Example:
        >>> degradations(["jpeg 30 to 100 p 0.5"])
        [Degradation(name='jpeg', low=30.0, high=100.0, either=False, chance=0.5)]
    """
    found: list[Degradation] = []
    for text in texts:
        found += degradations(PRESETS[text], leaf) if text in PRESETS else [_read(text, leaf)]
    return found


def _read(text: str, leaf: str) -> Degradation:
    match = _WRITTEN.fullmatch(text)
    if match is None:
        raise ValueError(f"{leaf} must {_FORM}, got {text!r}")
    name = match["name"]
    known = ", ".join([*TRANSFORMS, *PRESETS])
    check(name in TRANSFORMS, leaf, f"name transforms among {known}", repr(text))
    strength = TRANSFORMS[name]
    chance = _number(match["chance"] or "1", text, leaf)
    check(0 <= chance <= 1, leaf, "have a probability in [0, 1]", repr(text))
    if strength is None:
        check(match["low"] is None, leaf, f"give {name} no strength", repr(text))
        return Degradation(name, chance=chance)
    check(match["low"] is not None, leaf, f"give {name} a strength, such as '{name} {strength.high:g}'", repr(text))
    low = _number(match["low"], text, leaf)
    high = low if match["high"] is None else _number(match["high"], text, leaf)
    ordered = strength.low <= low <= high <= strength.high
    check(ordered, leaf, f"give {name} a strength in [{strength.low:g}, {strength.high:g}], the lower one first", repr(text))
    check(not strength.whole or (low % 1 == 0 == high % 1), leaf, f"give {name} a whole number", repr(text))
    return Degradation(name, low, high, match["between"] == "or", chance)


def _number(written: str, text: str, leaf: str) -> float:
    try:
        return float(written)
    except ValueError as error:
        raise ValueError(f"{leaf} must {_FORM}, got {text!r}") from error
