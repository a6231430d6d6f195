r"""Two edges on the logit, fixed at stated error rates; an image between them is called uncertain.

An edge is an order statistic of the validation part that counts the image to come among those already there, as split conformal
prediction does for each class. Records stand for images, since images of a record depend on each other: each of R records has
a share of 1 / (R + 1), which its images divide among themselves, and the image to come has the last one. The edge of the real
images is the smallest e with

.. math:: \frac{1}{R + 1} \Bigl(1 + \sum_{i:\, z_i \ge e} \frac{1}{k_i}\Bigr) \le \text{rate}

where k_i images of its class are in the record of image i. With one image a record this is the ceil((1 - rate)(R + 1))-th
smallest logit. An image of a record that is like those of validation then lies at or above e with a chance of at most the
rate, on average over validation parts, however the logits are distributed. Below a rate of 1 / (R + 1) nothing can be promised.

Reference:
    Vovk, Gammerman & Shafer, Algorithmic learning in a random world (2005), class-conditional; Lee, Barber & Willett,
    Distribution-free inference with hierarchical data (2023), for images of records.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True)
class ConformalSet:
    """Which classes an image may be of, at a stated level: none, one or both of them."""

    level: float
    """Share, in (0, 1), of the images of each class whose set is to hold their class."""
    real_below: float
    """Logit below which the set holds the class real."""
    generated_above: float
    """Logit above which the set holds the class generated."""

    def __post_init__(self) -> None:
        _require_numbers(asdict(self), "conformal")
        _require_rates({"conformal.level": self.level})


@dataclass(frozen=True)
class Bands:
    """Where an image is called likely generated, uncertain or likely real, and what was promised of it."""

    likely_real_to: float
    """Logit at and below which an image is called likely real."""
    likely_generated_from: float
    """Logit at and above which an image is called likely generated."""
    between: Literal["both", "neither"]
    """What a logit between them is like: images of both classes, or, where the classes lie further apart than the rates ask
    for, the usual images of neither."""
    false_positive_rate: float
    """At most this share of real images is called likely generated; the rate asked for, or the least that can be promised."""
    false_negative_rate: float
    """At most this share of generated images is called likely real; the same."""
    real_records: int
    """Records of the validation part with a real image."""
    generated_records: int
    """Records of the validation part with a generated image."""
    conformal: tuple[ConformalSet, ...] = ()
    """Sets at further levels, whose coverage is checked on the test part."""

    def __post_init__(self) -> None:
        _require_numbers({name: value for name, value in asdict(self).items() if name not in ("between", "conformal")}, "bands")
        if self.likely_real_to > self.likely_generated_from:
            raise ValueError(f"bands.likely_real_to must be at most {self.likely_generated_from}, got {self.likely_real_to}")
        if self.between not in ("both", "neither"):
            raise ValueError(f"bands.between must be both or neither, got {self.between!r}")
        _require_rates({f"bands.{name}": getattr(self, name) for name in ("false_positive_rate", "false_negative_rate")})
        if min(self.real_records, self.generated_records) < 1:
            counts = f"{self.real_records} and {self.generated_records}"
            raise ValueError(f"bands.real_records and bands.generated_records must be at least 1, got {counts}")

    def likely_generated(self, logits: np.ndarray) -> np.ndarray:
        """``(N,)`` bool of ``(N,)`` logits."""
        return logits >= self.likely_generated_from

    def likely_real(self, logits: np.ndarray) -> np.ndarray:
        """``(N,)`` bool of ``(N,)`` logits."""
        return (logits <= self.likely_real_to) & (logits < self.likely_generated_from)

    def around(self, threshold: float) -> "Bands":
        """The same with a threshold between the edges, so that verdict and threshold never contradict each other.

        An edge only moves outwards, by which both rates hold all the more.

        Args:
            threshold: logit at and above which an image is called generated.
        """
        lower = min(self.likely_real_to, float(np.nextafter(threshold, -np.inf)))
        return replace(self, likely_real_to=lower, likely_generated_from=max(self.likely_generated_from, threshold))

    def shifted(self, by: float) -> "Bands":
        """The bands of logits that are smaller by so much."""
        conformal = tuple(
            replace(one, real_below=one.real_below - by, generated_above=one.generated_above - by) for one in self.conformal
        )
        return replace(
            self,
            likely_real_to=self.likely_real_to - by,
            likely_generated_from=self.likely_generated_from - by,
            conformal=conformal,
        )

    @classmethod
    def from_json(cls, values: Any) -> "Bands":
        """What ``asdict`` made of it, after JSON.

        Raises:
            ValueError: a value is missing, unknown or out of range.
        """
        try:
            sets = tuple(ConformalSet(**one) for one in values["conformal"])
            return cls(**{**values, "conformal": sets})
        except (TypeError, KeyError) as error:
            raise ValueError(f"bands must hold what rdd.bands.Bands describes: {error}") from error


def fix_bands(
    logits: np.ndarray,
    labels: np.ndarray,
    records: np.ndarray,
    *,
    false_positive_rate: float,
    false_negative_rate: float,
    levels: Sequence[float] = (),
) -> Bands:
    """Bands from the validation part.

    Where the edges cross, since the classes lie further apart than the rates ask for, they change places: both rates then hold
    all the more, and an image between them, which is unusual of either class, is still called uncertain. Where a rate is below
    1 / (R + 1), the edge lies just beyond all images of the class, and the bands say that rate.

    Args:
        logits: ``(N,)``, finite.
        labels: ``(N,)``: 0 real, 1 generated, both present.
        records: ``(N,)`` record of each image, any integers.
        false_positive_rate: share, in (0, 1), of real images that may be called likely generated.
        false_negative_rate: share, in (0, 1), of generated images that may be called likely real.
        levels: each in (0, 1), of further conformal sets.
    """
    real, generated = labels == 0, labels == 1
    counts = tuple(len(np.unique(records[of])) for of in (real, generated))

    def edges(real_rate: float, generated_rate: float) -> tuple[float, float]:
        below = edge_at(logits[real], records[real], real_rate)
        return below, -edge_at(-logits[generated], records[generated], generated_rate)

    real_edge, generated_edge = edges(false_positive_rate, false_negative_rate)
    return Bands(
        likely_real_to=min(real_edge, generated_edge),
        likely_generated_from=max(real_edge, generated_edge),
        between="neither" if generated_edge > real_edge else "both",
        false_positive_rate=max(false_positive_rate, least_rate(counts[0])),
        false_negative_rate=max(false_negative_rate, least_rate(counts[1])),
        real_records=counts[0],
        generated_records=counts[1],
        conformal=tuple(ConformalSet(level, *edges(1 - level, 1 - level)) for level in levels),
    )


def edge_at(values: np.ndarray, records: np.ndarray, rate: float) -> float:
    """The smallest edge at or above which a further value lies with a chance of at most ``rate``.

    Args:
        values: ``(N,)``, N at least 1.
        records: ``(N,)`` record of each value, any integers.
        rate: in (0, 1); below :func:`least_rate` the edge is just above the largest value.

    Example:
        >>> round(edge_at(np.arange(1.0, 100.0), np.arange(99), 0.05), 6)  # 4 of 99 lie above: (4 + 1) / 100
        95.0
    """
    _, number, images = np.unique(records, return_inverse=True, return_counts=True)
    distinct, place = np.unique(values, return_inverse=True)
    at_or_above = np.cumsum(np.bincount(place, weights=1 / images[number])[::-1])
    fitting = int((at_or_above <= rate * (len(images) + 1) - 1 + 1e-9).sum())  # a sum of shares is not exact
    return float(np.nextafter(distinct[::-1][min(fitting, len(distinct) - 1)], np.inf))


def least_rate(records: int) -> float:
    """The least error rate that so many records can promise."""
    return 1 / (records + 1)


def _require_numbers(values: dict[str, Any], where: str) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{where}.{name} must be a finite number, got {value!r}")


def _require_rates(values: dict[str, float]) -> None:
    for name, value in values.items():
        if not 0 < value < 1:
            raise ValueError(f"{name} must lie in (0, 1), got {value}")
