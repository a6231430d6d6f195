"""The reference of a detector: which training images it keeps, and the distance that the validation part fixes."""

import logging
import math

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rdd.bands import least_rate
from rdd.config import Config
from rdd.features import FeatureTable
from rdd.features.index import python_strings
from rdd.hashing import hash_strings
from rdd.reference import NEIGHBOURS, Reference, ReferenceImages, fix_reference, sampled_records

logger = logging.getLogger(__name__)

_SEED = 1
"""Of the hash that draws records: any but that of a split, so that what is drawn is a random sample of its part."""
_AT_A_TIME = 8192
"""Images whose features are in memory at once, widened to float32: of 768 columns 24 MiB."""


def make_reference(config: Config, table: FeatureTable) -> Reference | None:
    """Draw the reference images of a run from its training part and fix their limit on its validation part.

    Args:
        config: the run; ``evaluate.reference_images`` and ``evaluate.reference_rate`` are read.
        table: its features.

    Returns:
        None where no reference is asked for, or no record is small enough for one, which is a warning.
    """
    cap, rate = config.evaluate.reference_images, config.evaluate.reference_rate
    if cap == 0:
        return None
    chosen = _sample(table, table.split(config.features, "train"), cap)
    if not len(chosen):
        logger.warning(
            "evaluate.reference_images %d is less than any record of the training part holds, so the detector has no "
            "reference and can not say which images are unlike its training set; set it higher",
            cap,
        )
        return None
    images = _images(table, chosen)
    neighbours = min(NEIGHBOURS, images.records)
    validation = table.split(config.features, "validation")
    validation = validation[torch.argsort(table.order[validation])]  # read in the order in which they lie
    batches = table.batches(validation.split(_AT_A_TIME), "none")
    distances = np.concatenate([images.distances(batch.features.numpy(), neighbours) for batch in batches])
    records = table.record_of[validation].numpy()
    reference = fix_reference(images, distances=distances, records=records, neighbours=neighbours, rate=rate)
    _warn_of_few_records(reference, rate)
    return reference


def _sample(table: FeatureTable, images: Tensor, cap: int) -> Tensor:
    """Images of the records that are drawn, ``(N,)`` in ascending order of record ids."""
    numbers, record_of = np.unique(table.record_of[images].numpy(), return_inverse=True)
    counts = np.stack([np.bincount(record_of, table.labels[images].numpy() == label) for label in (0, 1)], axis=1)
    hashes = hash_strings(python_strings(table.record_ids.take(pa.array(numbers))), seed=_SEED)
    chosen = sampled_records(hashes, counts.astype(np.int64), cap=cap)
    return images[torch.from_numpy(chosen[record_of])]


def _images(table: FeatureTable, images: Tensor) -> ReferenceImages:
    """Some images with their features, in the dtypes in which the set keeps them."""
    by_file = torch.argsort(table.order[images])
    features = torch.empty(len(images), sum(table.inputs.values()))
    begin = 0
    for batch in table.batches(images[by_file].split(_AT_A_TIME), "none"):
        features[by_file[begin : begin + len(batch.features)]] = batch.features
        begin += len(batch.features)
    parts = zip(table.inputs, features.split(list(table.inputs.values()), dim=1), strict=True)
    return ReferenceImages(
        record_ids=table.record_ids.take(pa.array(table.record_of[images].numpy())).to_pylist(),
        generators=[table.generators[code] for code in table.generator_of[images].tolist()],
        features={name: part.numpy().astype(table.layout[name][0].dtype) for name, part in parts},
    )


def _warn_of_few_records(reference: Reference, rate: float) -> None:
    """Say which rate there is instead of one that so few records can not promise."""
    records = reference.validation_records
    if rate < least_rate(records):
        logger.warning(
            "evaluate.reference_rate %g takes at least %d validation records, and there are %d: images are called unlike the "
            "training set at %.2g, the least that they can promise; set features.validation_share higher, or the rate",
            rate,
            math.ceil(1 / rate - 1 - 1e-9),
            records,
            least_rate(records),
        )
