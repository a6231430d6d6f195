"""What an embedding stores of each feature: its width, and float16, or float32 where float16 would round it too much."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rdd.clip_models import image_feature_widths, model_config
from rdd.config import Config
from rdd.feature_names import TEXTS, view_name

Stored = dict[str, dict[str, Any]]
"""By name of a feature its ``width`` and ``dtype``, as the manifest has it."""

MAX_ROUNDING = 0.1
"""Largest rounding that float16 may do to a dimension, as a share of its deviation; then 1 % of its variance is rounding."""

MAX_OVERFLOW = 0.01
"""Largest share of images with a value beyond float16."""

_FIRST_CHECK = 32  # images, after which deviations are known well enough
_LAST_CHECK = 4096  # images, after which they will not change; so the check costs a fast encoder nothing

_NUMPY: dict[str, np.dtype] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


def features_of_views(names: Iterable[str], views: int) -> list[str]:
    """Names of features of images, then those of each view of them.

    Example:
        >>> features_of_views(["projected", "block_9"], 1)
        ['projected', 'block_9', 'projected_view_1', 'block_9_view_1']
    """
    names = list(names)
    return [view_name(name, view) for view in range(1 + views) for name in names]


def stored_features(config: Config) -> Stored:
    """The features that an embedding of a config stores; needs no weights.

    Raises:
        ValueError: the model is unknown, or its image tower has no such block.
    """
    clip = config.clip
    widths = image_feature_widths(clip.model, clip.features)
    stored = {
        view_name(name, view): {"width": width, "dtype": "float32" if name in clip.float32 else "float16"}
        for view in range(1 + config.embed.views)
        for name, width in widths.items()
    }
    text = {"width": model_config(clip.model)["embed_dim"], "dtype": "float16"}
    return stored | ({name: dict(text) for name in TEXTS} if config.embed.text else {})


def as_float16(values: np.ndarray) -> np.ndarray:
    """Values as they are stored, little-endian; what is beyond float16 becomes infinite, which rejects its record."""
    with np.errstate(over="ignore"):
        return values.astype(_NUMPY["float16"])


class Rounding:
    """Features of images as they are stored, refused where float16 rounds them too much.

    Float16 holds 11 binary digits of a value. That is plenty for most features, but a dimension may lie far from zero and vary
    little, and a head that standardises its inputs sees only what varies. So the root mean square of what rounding moves is
    held to :data:`MAX_ROUNDING` of each dimension's deviation, over all images so far: when 32 have come, and then each time
    their number has doubled, up to 4,096. A dimension that does not vary at all says nothing, and is left out.

    Args:
        features: names of the features, each with whether it is kept in float32.
    """

    def __init__(self, features: Mapping[str, bool]) -> None:
        self._wide = dict(features)
        self._moments = {name: _Moments() for name, wide in features.items() if not wide}

    def stored(self, name: str, values: np.ndarray) -> np.ndarray:
        """One batch of a feature as it is stored.

        Args:
            name: of the feature.
            values: ``(N, width)`` float32.

        Raises:
            ValueError: float16 rounds the feature too much, or many of its images hold a value beyond float16.
        """
        if self._wide[name]:
            return values.astype(_NUMPY["float32"])
        narrow, moments = as_float16(values), self._moments[name]
        if moments.add(values, narrow) and (flaw := moments.flaw()) is not None:
            raise ValueError(f"{name} must be kept in float32: {flaw}; add it to clip.float32 and choose another embed.output")
        return narrow


class _Moments:
    """Of each dimension of a feature, over all images so far: mean, sum of squared deviations, and of squared roundings."""

    def __init__(self) -> None:
        self._images = self._overflown = 0
        self._next_check = _FIRST_CHECK
        self._mean, self._deviations, self._roundings = np.zeros(1), np.zeros(1), np.zeros(1)

    def add(self, values: np.ndarray, narrow: np.ndarray) -> bool:
        """Add a batch; returns whether it is time for a check."""
        if self._next_check > _LAST_CHECK:
            return False
        fits = np.isfinite(narrow).all(axis=1)
        self._overflown += int((~fits).sum())
        exact = values[fits].astype(np.float64)
        if len(exact):
            before, mean = self._images, exact.mean(axis=0)
            self._images += len(exact)
            apart = mean - self._mean
            self._deviations = (
                self._deviations + np.square(exact - mean).sum(axis=0) + np.square(apart) * before * len(exact) / self._images
            )
            self._mean = self._mean + apart * len(exact) / self._images
            self._roundings = self._roundings + np.square(exact - narrow[fits]).sum(axis=0)
        if self._images + self._overflown < self._next_check:
            return False
        self._next_check = 2 * (self._images + self._overflown)
        return True

    def flaw(self) -> str | None:
        """What float16 does to the feature, if it is too much."""
        seen = self._images + self._overflown
        if self._overflown > MAX_OVERFLOW * seen:
            return f"{self._overflown} of {seen} images hold a value beyond float16 (at most {MAX_OVERFLOW:.0%} may)"
        varies = self._deviations > 0
        moved = np.sqrt(np.divide(self._roundings, self._deviations, out=np.zeros_like(self._deviations), where=varies))
        worst = int(moved.argmax())
        if moved[worst] <= MAX_ROUNDING:
            return None
        return (
            f"over {seen} images float16 moves its dimension {worst} by {moved[worst]:.2g} of that dimension's deviation, "
            f"at most {MAX_ROUNDING:g} is allowed"
        )
