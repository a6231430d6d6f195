"""Images of validation and test that the training part holds as well: the same file, or nearly the same features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdd.config import FeaturesConfig
from rdd.feature_names import PROJECTED
from rdd.features import FeatureTable
from rdd.features.columns import columns_of
from rdd.features.image_facts import ImageFacts
from rdd.features.splits import split_with_both_classes

_AT_A_TIME = 8192  # images of the training part; with as many of 2000 others a piece of cosines has 65 MB


def same_files(images: ImageFacts, config: FeaturesConfig) -> int | None:
    """Images of validation and test whose file, byte for byte, is also in the training part.

    Args:
        images: all of a set, with ``content_hash``.
        config: of the split.

    Returns:
        Their number; None where the set does not hold hashes of the files.

    Raises:
        ValueError: a part of the split lacks a class.
    """
    hashes = images.facts["content_hash"].combine_chunks()
    if hashes.null_count == len(hashes):
        return None
    has_class = np.zeros((len(images.record_ids), 2), dtype=bool)
    has_class[images.record_of, images.labels] = True
    in_training = (split_with_both_classes(images.record_ids, has_class, config) == "train")[images.record_of]
    known = np.asarray(hashes.is_valid())
    numbers = np.asarray(hashes.fill_null(0))
    return int(np.isin(numbers[known & ~in_training], numbers[known & in_training]).sum())


@dataclass(frozen=True)
class NearDuplicates:
    """What was found among the images that were compared."""

    images: int
    """Images of validation and test with a near duplicate in the training part."""
    of_other_class: int
    """Those of them whose nearest one there is of the other class."""
    compared: int
    """Images of validation and test that were looked at."""
    training_images: int
    """That each of them was compared to."""
    feature: str
    """That they were compared by."""
    nearest: list[float]
    """Quantiles 0.5, 0.95 and 1 over the images compared: the cosine to the nearest image of the training part."""


def near_duplicates(table: FeatureTable, config: FeaturesConfig, *, cosine: float, images: int, seed: int) -> NearDuplicates:
    """Images of validation and test whose features have nearly the direction of those of an image of the training part.

    Features of frozen encoders lie in a narrow cone, where any two have a large cosine, the narrower the earlier the block (of
    block 9 of 12 the cosine of one image to the nearest other is 0.96); so the mean of the training part is taken off first.

    Args:
        table: the features; only its first input is compared, see :func:`compared_feature`.
        config: of the split.
        cosine: in (0, 1], from which two images are near duplicates.
        images: of validation and test to look at, at most; drawn.
        seed: of the draw.

    Raises:
        ValueError: a part of the split lacks a class.
    """
    training = table.split(config, "train")
    others = torch.cat([table.split(config, part) for part in ("validation", "test")])
    if len(others) > images:
        others = others[torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))[:images]]
    sums = [block.sum(dim=0, dtype=torch.float64) for _, block in _blocks(table, training)]
    mean = (torch.stack(sums).sum(dim=0) / len(training)).float()
    asked = torch.cat([_directions(block, mean) for _, block in _blocks(table, others)])
    best, nearest = torch.full((len(asked),), -2.0), torch.zeros(len(asked), dtype=torch.int64)
    for chosen, block in _blocks(table, training):
        values, places = (asked @ _directions(block, mean).T).max(dim=1)
        better = values > best
        best[better], nearest[better] = values[better], chosen[places[better]]
    near = best >= cosine
    other_class = table.labels[others] != table.labels[nearest]
    return NearDuplicates(
        images=int(near.sum()),
        of_other_class=int((near & other_class).sum()),
        compared=len(others),
        training_images=len(training),
        feature=next(iter(table.inputs)),
        nearest=[round(float(value), 4) for value in np.quantile(best.numpy(), [0.5, 0.95, 1.0])],
    )


def compared_feature(manifest: dict[str, Any], inputs: Sequence[str]) -> str:
    """The feature by which near duplicates are looked for.

    CLIP's own output says what an image shows, whatever a head looks at, so it is taken where it is stored.

    Args:
        manifest: of the feature set.
        inputs: ``features.inputs``, of which the first is taken otherwise.
    """
    return PROJECTED if PROJECTED in columns_of(manifest) else inputs[0]


def as_sentences(same_file: int | None, near: NearDuplicates, *, cosine: float) -> str:
    """What was found, for the page of an audit.

    Args:
        same_file: of :func:`same_files`.
        near: of :func:`near_duplicates`.
        cosine: from which two images are near duplicates.
    """
    same = "an unknown number (the features hold no hashes)" if same_file is None else f"{same_file}"
    middle, high, largest = near.nearest
    return (
        f"Duplicates across splits. Of the images of validation and test, {same} have the same file in the training part. Of "
        f"{near.compared} of them, each compared with {near.training_images} of the training part by the feature "
        f"{near.feature}, {near.images} have a near duplicate there (cosine at least {cosine:g}), for {near.of_other_class} "
        f"of these it is of the other class. The cosine to the nearest image is {middle:.2f} in the median, {high:.2f} at "
        f"95 % and {largest:.2f} at most.\n"
    )


def _blocks(table: FeatureTable, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some images at a time, and ``(n, width)`` float32 of their first input."""
    matrix = table.matrices[next(iter(table.inputs))]
    for chosen in images.split(_AT_A_TIME):
        rows = table.order[chosen].to(torch.int64)
        yield chosen, matrix.index_select(0, rows).float()


def _directions(vectors: Tensor, mean: Tensor) -> Tensor:
    """Vectors less a mean, of length 1; float32. One of length 0 stays 0, which is near to nothing."""
    return torch.nn.functional.normalize(vectors - mean, dim=1)
