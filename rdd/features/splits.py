"""Train, validation and test: whole records, by a hash of their ids."""

import logging
from typing import Literal

import numpy as np

from rdd.config import FeaturesConfig
from rdd.hashing import hash_strings

logger = logging.getLogger(__name__)

Part = Literal["train", "validation", "test"]

_PARTS: tuple[Part, ...] = ("test", "validation", "train")
_CLASSES = ("real", "generated")


def split_records(record_ids: tuple[str, ...], config: FeaturesConfig) -> np.ndarray:
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


def split_with_both_classes(record_ids: tuple[str, ...], has_class: np.ndarray, config: FeaturesConfig) -> np.ndarray:
    """The parts of :func:`split_records`, corrected where a part of a small set lacks a class.

    Then one record with that class, the one with the lowest hash, is moved there from the training part. If every part has both
    classes, nothing is moved. A test fold is never changed, since each record has to be in the test set of exactly one fold.

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
    moved = 0
    for part in ("test", "validation") if config.split == "shares" else ("validation",):
        for which in (0, 1):
            if (has_class[:, which] & (parts == part)).any():
                continue
            candidates = np.flatnonzero(has_class[:, which] & (parts == "train"))
            if len(candidates) > 1:  # the training part keeps one
                parts[candidates[np.argmin(_uniform(record_ids, config)[candidates])]] = part
                moved += 1
    for part in _PARTS:
        lacking = [name for which, name in enumerate(_CLASSES) if not (has_class[:, which] & (parts == part)).any()]
        if lacking:
            raise ValueError(_too_few(part, lacking, has_class, config))
    if moved:
        logger.warning(
            "%d records were moved out of the training part, so that validation and test have both classes: with so few "
            "images (%d real, %d generated records) every figure is a rough one",
            moved,
            *has_class.sum(0),
        )
    return parts


def _uniform(record_ids: tuple[str, ...], config: FeaturesConfig) -> np.ndarray:
    return hash_strings(record_ids, seed=config.split_seed) / 2.0**64


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
