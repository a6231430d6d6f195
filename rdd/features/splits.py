"""Train, validation and test: whole records, by a hash of their ids."""

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa

from rdd.config import FeaturesConfig
from rdd.features.index import python_strings
from rdd.hashing import hash_strings

logger = logging.getLogger(__name__)

Part = Literal["train", "validation", "test"]

PARTS: tuple[Part, ...] = ("test", "validation", "train")
_CLASSES = ("real", "generated")


def split_records(record_ids: pa.StringArray, config: FeaturesConfig) -> np.ndarray:
    """Part of each record, by a seeded hash of its id: the same whatever other records there are.

    Returns:
        ``(R,)`` str: train, validation or test. By folds, validation takes its share of what is not the fold.
    """
    uniform = _uniform(record_ids, config)
    if config.split == "shares":
        test = uniform < config.test_share
        validation = ~test & (uniform < config.test_share + config.validation_share)
    else:
        place = uniform * config.num_folds
        test = np.floor(place).astype(int) == config.fold
        validation = ~test & (place % 1 < config.validation_share)
    return np.where(test, "test", np.where(validation, "validation", "train"))


def split_with_both_classes(record_ids: pa.StringArray, has_class: np.ndarray, config: FeaturesConfig) -> np.ndarray:
    """The parts of :func:`split_records`, corrected where a part of a small set lacks a class.

    Then one record with that class is moved there from the part that holds most of them: the one with the lowest hash of those
    that the other part can spare. If every part has both classes, nothing is moved. A test fold is never changed, since each
    record has to be in the test set of exactly one fold.

    Args:
        record_ids: R ids.
        has_class: ``(R, 2)`` bool: whether a record has a real image, and whether it has a generated one.
        config: split, shares or folds, seed.

    Returns:
        ``(R,)`` str: train, validation or test.

    Raises:
        ValueError: there are too few records of a class, or a fold lacks one; how many are needed is said.
    """
    parts = split_records(record_ids, config)
    changeable = PARTS if config.split == "shares" else ("validation", "train")
    moved = 0
    for part in changeable:
        for which in (0, 1):
            if (has_class[:, which] & (parts == part)).any():
                continue
            spare = _spare_records(parts, has_class, which, changeable)
            if len(spare):
                parts[spare[np.argmin(_uniform(record_ids, config)[spare])]] = part
                moved += 1
    for part in PARTS:
        lacking = [name for which, name in enumerate(_CLASSES) if not (has_class[:, which] & (parts == part)).any()]
        if lacking:
            raise ValueError(_too_few(part, lacking, has_class, config))
    if moved:
        logger.warning(
            "%d records were moved to another part, so that train, validation and test have both classes: with so few images "
            "(%d records with real, %d with generated ones) every figure is a rough one",
            moved,
            *has_class.sum(0),
        )
    return parts


def _spare_records(parts: np.ndarray, has_class: np.ndarray, which: int, changeable: Sequence[Part]) -> np.ndarray:
    """Records of a class that may leave the part that holds most of them, since it keeps each class that it has."""
    donor = max(changeable, key=lambda part: int((has_class[:, which] & (parts == part)).sum()))
    in_donor = parts == donor
    last_of_class = has_class & (has_class[in_donor].sum(0) < 2)
    return np.flatnonzero(in_donor & has_class[:, which] & ~last_of_class.any(1))


def _uniform(record_ids: pa.StringArray, config: FeaturesConfig) -> np.ndarray:
    return hash_strings(python_strings(record_ids), seed=config.split_seed) / 2.0**64


def _too_few(part: str, lacking: list[str], has_class: np.ndarray, config: FeaturesConfig) -> str:
    """One sentence: what is missing, how many there are, and how many are needed."""
    real, generated = has_class.sum(0).tolist()
    held = (
        f"the {part} part has no {' and no '.join(lacking)} image: got {real} records with a real image and "
        f"{generated} with a generated one"
    )
    if config.split == "folds":
        return f"{held}; lower features.num_folds ({config.num_folds}) or give more records, some ten of each class a fold"
    return f"{held}, at least 3 of each are needed for train, validation and test; give more records"
