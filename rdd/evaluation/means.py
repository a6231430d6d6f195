"""Means over groups of images, by draws of whole records: rates at a threshold, losses, and what calibration errors are of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Column:
    """A quantity whose mean over some images is taken."""

    values: np.ndarray
    """``(N,)`` of each image."""
    images: np.ndarray
    """``(N,)`` bool: those whose mean it is."""
    parts: np.ndarray | None = None
    """``(N,)`` integers from 0, for a mean a part: of the quantity in that part and 0 in the others."""


class RecordWeightedMeans:
    """Means of fixed quantities when records are counted several times or not at all.

    A mean is a ratio of two sums over records, so a draw costs a product with a matrix, however many images there are.

    Args:
        records: ``(N,)`` record of each image, any integers.
        columns: by name, the quantities; one with parts becomes ``<name>_<part>`` of each.
    """

    def __init__(self, records: np.ndarray, columns: Mapping[str, Column]) -> None:
        ids, numbers = np.unique(records, return_inverse=True)
        self.records = len(ids)
        """How many there are."""
        names: list[str] = []
        sums: list[np.ndarray] = []
        images: list[np.ndarray] = []
        group_of: list[int] = []
        places: dict[int, int] = {}
        for name, column in columns.items():
            within = column.images
            parts = 1 if column.parts is None else int(column.parts.max()) + 1
            cells = numbers[within] * parts + (0 if column.parts is None else column.parts[within])
            sums.append(np.bincount(cells, weights=column.values[within], minlength=parts * len(ids)).reshape(len(ids), parts))
            names += [name] if column.parts is None else [f"{name}_{part}" for part in range(parts)]
            if id(within) not in places:
                places[id(within)] = len(images)
                images.append(np.bincount(numbers[within], minlength=len(ids)).astype(np.float64))
            group_of += [places[id(within)]] * parts
        self.names = tuple(names)
        """Of the means, in the order of their values."""
        self._sums, self._images, self._group_of = np.concatenate(sums, axis=1), np.stack(images, axis=1), group_of

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """The means with each record counted so often.

        Args:
            counts: ``(B, R)`` whole numbers of B draws, by record in ascending order.

        Returns:
            ``(B, K)`` float64, in the order of ``names``; NaN where a group has no image.
        """
        weights = counts.astype(np.float64)
        images = (weights @ self._images)[:, self._group_of]
        return np.divide(weights @ self._sums, images, out=np.full(images.shape, np.nan), where=images > 0)
