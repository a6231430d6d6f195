r"""Images of the training part that travel with a detector, to say how unlike them another image is.

An image's features are standardised by mean and deviation of each column over these reference images and scaled to length 1.
Its distance is the Euclidean one to the k-th nearest record among them, of which the nearest image counts; it lies in [0, 2]:

.. math:: d(x) = \min\{d : |\{r : \min_{i \in r} \lVert u(x) - u(x_i) \rVert \le d\}| \ge k\}, \quad
    u(x) = \frac{(x - \mu) / \sigma}{\lVert (x - \mu) / \sigma \rVert}

Records count, not images, since five images of one record are no more evidence than one. An image is called unlike the training
set from the distance on that a further image like those of validation reaches with a chance of at most a stated rate, however
the distances are distributed (:func:`rdd.bands.edge_at`). No record of validation is in the reference.

Reference:
    Sun, Ming, Zhu & Li, Out-of-distribution detection with deep nearest neighbors, ICML 2022, arXiv 2204.06507.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rdd.bands import edge_at, least_rate

NEIGHBOURS = 5
"""k of a reference that is made, or as many as it has records; small, so that what is rare in training is near itself."""

_FLOOR = 0.05
"""Least deviation of a column, as a share of the root mean square over those of its feature, as where heads standardise: one
that is nearly constant would else be blown up by rounding."""
_AT_A_TIME = 1024
"""Images whose distances to all reference images are in memory at once: with 2,000 of these 16 MB."""


@dataclass(frozen=True)
class Neighbour:
    """A reference image near another image."""

    record_id: str
    generator: str
    """Name, or ``real``."""
    distance: float
    """In [0, 2]."""


@dataclass(frozen=True, eq=False)
class ReferenceImages:
    """Features of some images of a training part, sorted by record."""

    record_ids: Sequence[str]
    """Of each of N images, ascending."""
    generators: Sequence[str]
    """Of each image its name, or ``real``."""
    features: Mapping[str, np.ndarray]
    """By name of an input, in the detector's order, ``(N, width)`` float16, or float32 for features that are kept in it."""

    def __post_init__(self) -> None:
        number = len(self.record_ids)
        if number < 1 or len(self.generators) != number or any(len(values) != number for values in self.features.values()):
            raise ValueError(
                f"a reference must hold as many generators and features as record ids, at least 1, got {number} ids"
            )
        if any(one > other for one, other in zip(self.record_ids, self.record_ids[1:], strict=False)):
            raise ValueError("the record ids of a reference must ascend, got others")
        if not all(np.isfinite(values).all() for values in self.features.values()):
            raise ValueError("the features of a reference must be finite numbers, got others")

    @property
    def widths(self) -> dict[str, int]:
        """Of each input."""
        return {name: values.shape[1] for name, values in self.features.items()}

    @cached_property
    def records(self) -> int:
        """Different ones."""
        return len(self._begins)

    def distances(self, features: np.ndarray, k: int) -> np.ndarray:
        """Distance of each image to the k-th nearest record.

        Args:
            features: ``(M, sum of the widths)``, the inputs end to end.
            k: from 1 to the number of records.

        Returns:
            ``(M,)`` float64 in [0, 2].
        """
        parts = [features[start : start + _AT_A_TIME] for start in range(0, len(features), _AT_A_TIME)]
        nearest = [np.partition(self._to_records(part), k - 1, axis=1)[:, k - 1] for part in parts]
        return np.concatenate([np.empty(0), *nearest])

    def nearest(self, features: np.ndarray, number: int) -> list[Neighbour]:
        """The nearest images of one image, at most one a record, the nearest first.

        Args:
            features: ``(sum of the widths,)``.
            number: how many, at least 0; fewer where there are fewer records.
        """
        distances = self._to_images(features[None])[0]
        ends = [*self._begins[1:], len(distances)]
        best = [begin + int(distances[begin:end].argmin()) for begin, end in zip(self._begins, ends, strict=True)]
        best.sort(key=lambda image: distances[image])
        return [Neighbour(self.record_ids[one], self.generators[one], float(distances[one])) for one in best[:number]]

    def _to_records(self, features: np.ndarray) -> np.ndarray:
        """``(M, R)``: distance of each image to each record."""
        return np.minimum.reduceat(self._to_images(features), self._begins, axis=1)

    def _to_images(self, features: np.ndarray) -> np.ndarray:
        """``(M, N)``: distance of each image to each reference image."""
        mean, deviation, units = self._standardised
        cosines = _unit((features.astype(np.float64) - mean) / deviation) @ units.T
        return np.sqrt(np.clip(2 - 2 * cosines, 0, 4))

    @cached_property
    def _begins(self) -> np.ndarray:
        """``(R,)``: the first image of each record."""
        ids = np.asarray(self.record_ids, dtype=object)
        return np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))

    @cached_property
    def _standardised(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and deviation of each column, and ``(N, sum of the widths)`` images as they are compared; float64."""
        columns = [values.astype(np.float64) for values in self.features.values()]
        mean = np.concatenate([values.mean(axis=0) for values in columns])
        deviation = np.concatenate([_with_floor(values.std(axis=0)) for values in columns])
        return mean, deviation, _unit((np.concatenate(columns, axis=1) - mean) / deviation)


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference images, and from where on an image is called unlike them."""

    images: ReferenceImages
    neighbours: int
    """k: the distance is that to the k-th nearest record; from 1 to the number of records."""
    far_from: float
    """Distance at and beyond which an image is called unlike the training set."""
    rate: float
    """At most this share, in (0, 1), of images like those of validation is; the rate asked for, or the least that can be
    promised."""
    validation_records: int
    """Records of the validation part that fixed it."""

    def __post_init__(self) -> None:
        if not 1 <= self.neighbours <= self.images.records:
            raise ValueError(f"reference.neighbours must lie in [1, {self.images.records}], got {self.neighbours}")
        if not 0 <= self.far_from < np.inf:
            raise ValueError(f"reference.far_from must be at least 0 and finite, got {self.far_from}")
        if not 0 < self.rate < 1:
            raise ValueError(f"reference.rate must lie in (0, 1), got {self.rate}")
        if self.validation_records < 1:
            raise ValueError(f"reference.validation_records must be at least 1, got {self.validation_records}")

    def distances(self, features: np.ndarray) -> np.ndarray:
        """``(M,)`` float64 in [0, 2] of images, whose features are ``(M, sum of the widths)``, the inputs end to end."""
        return self.images.distances(features, self.neighbours)


def fix_reference(
    images: ReferenceImages, *, distances: np.ndarray, records: np.ndarray, neighbours: int, rate: float
) -> Reference:
    """The reference with its limit; below a rate of 1 / (R + 1) it lies just beyond all images of the R validation records.

    Args:
        images: of the training part.
        distances: ``(M,)`` of the images of the validation part.
        records: ``(M,)`` record of each of them, any integers.
        neighbours: k, by which the distances were measured.
        rate: share, in (0, 1), of images like those of validation that may be called unlike the training set.
    """
    number = len(np.unique(records))
    return Reference(
        images=images,
        neighbours=neighbours,
        far_from=edge_at(distances, records, rate),
        rate=max(rate, least_rate(number)),
        validation_records=number,
    )


def sampled_records(hashes: np.ndarray, images: np.ndarray, *, cap: int) -> np.ndarray:
    """Whole records with at most so many images, a random sample that depends on ids alone.

    Records with real images, with generated ones, and with both are drawn apart, so that each kind has its share of the images,
    or one record; within a kind they come in the order of their hashes, and one too large for what is left is passed over.

    Args:
        hashes: ``(R,)`` of the ids of the records.
        images: ``(R, 2)``: real and generated images of each record.
        cap: images, at least 1.

    Returns:
        ``(R,)`` bool.
    """
    sizes, kinds = images.sum(axis=1), (images > 0) @ [1, 2]
    chosen, left, waiting = np.zeros(len(hashes), dtype=bool), cap, int(sizes.sum())
    for kind in sorted(
        set(kinds.tolist()) - {0}, key=lambda kind: sizes[kinds == kind].sum()
    ):  # the largest takes what is left
        members = np.flatnonzero(kinds == kind)
        members = members[np.argsort(hashes[members], kind="stable")]
        of_kind = int(sizes[members].sum())
        room = min(left, max(left * of_kind // waiting, int(sizes[members].min())))
        left, waiting = left - room, waiting - of_kind
        smallest = sizes[members].min()
        for record in members.tolist():
            if sizes[record] <= room:
                chosen[record], room = True, room - sizes[record]
            if room < smallest:
                break
        left += room
    return chosen


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row with length 1; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)


def _with_floor(deviation: np.ndarray) -> np.ndarray:
    """No deviation below a share of what is usual for its feature; 1 where the feature never varies."""
    usual = np.sqrt(np.square(deviation).mean())
    return np.maximum(deviation, _FLOOR * usual) if usual > 0 else np.ones_like(deviation)
