"""Train, validation and test: whole records, by a hash of their ids."""

from typing import Literal

import numpy as np

from rdd.config import FeaturesConfig
from rdd.hashing import hash_strings

Part = Literal["train", "validation", "test"]


def split_records(record_ids: tuple[str, ...], config: FeaturesConfig) -> np.ndarray:
    """Part of each record, by a seeded hash of its id: the same whatever other records there are.

    Returns:
        ``(R,)`` str: train, validation or test. By folds, validation takes its share of what is not the fold.
    """
    uniform = hash_strings(record_ids, seed=config.split_seed) / 2.0**64
    if config.split == "shares":
        test = uniform < config.test_share
        validation = ~test & (uniform < config.test_share + config.validation_share)
    else:
        place = uniform * config.num_folds
        test = np.floor(place).astype(int) == config.fold
        validation = ~test & (place % 1 < config.validation_share)
    return np.where(test, "test", np.where(validation, "validation", "train"))
