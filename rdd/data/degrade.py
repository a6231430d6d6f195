"""Degraded copies of pictures: a list of transforms with draws of their own for each image, the same for both classes.

What is drawn depends on the seed and on the bytes of the image's file alone. So a copy does not depend on batches, workers,
restarts, the place of the set or the order of its records, nor on whether an image is real or generated.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from rdd.config.degrade import CODE, Degradation, degradations
from rdd.data.transforms import BY_NAME

_LARGEST_SIDE = 8192
"""Pixels; a longer side is not enlarged further, since a list of transforms could ask for any size."""


class Degrader:
    """Applies a list of transforms; picklable.

    Args:
        texts: the list, as ``embed.degrade`` has it; an empty one leaves every picture as it is.
        seed: of the draws, at least 0.

    Raises:
        ValueError: the list is wrong.
    """

    def __init__(self, texts: Sequence[str], *, seed: int) -> None:
        self._steps = degradations(texts)
        self._operations = degradations(CODE)
        self._seed = seed

    def __call__(self, image: Image.Image, sha256: bytes) -> Image.Image:
        """The degraded copy.

        Args:
            image: in any mode; with a transform in the list it becomes RGB first, as CLIP takes it.
            sha256: of the bytes of its file.
        """
        if not self._steps:
            return image
        image, words = image.convert("RGB"), np.frombuffer(sha256, dtype="<u4").tolist()
        for place, step in enumerate(self._steps):
            rng = np.random.default_rng([self._seed, place, *words])  # its own, so that a step changes no other's draws
            if rng.random() < step.chance:
                image = self._applied(step, image, rng)
        return image

    def _applied(self, step: Degradation, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        strength = _drawn(step, rng)
        if step.name != "code":
            return BY_NAME[step.name](image, _held(step.name, strength, image), rng)
        number = int(rng.integers(int(strength) + 1))
        for place in sorted(rng.choice(len(self._operations), size=number, replace=False).tolist()):
            image = self._applied(self._operations[place], image, rng)
        return image


def _drawn(step: Degradation, rng: np.random.Generator) -> float:
    """The strength for one image; a number is drawn whether or not there is a choice, so that the draws after it stay."""
    share = rng.random()
    if step.either:
        return step.low if share < 0.5 else step.high
    if step.whole:
        return step.low + int(share * (step.high - step.low + 1))
    return step.low + share * (step.high - step.low)


def _held(name: str, strength: float, image: Image.Image) -> float:
    """The strength, lowered where an enlarged picture would be longer than the largest side."""
    longer, shorter = max(image.size), min(image.size)
    if name in ("scale", "screenshot"):
        return min(strength, max(1.0, _LARGEST_SIDE / longer))
    if name == "shorter_side":
        return min(strength, max(float(shorter), _LARGEST_SIDE * shorter / longer))
    return strength
