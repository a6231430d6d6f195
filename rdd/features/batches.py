"""The sequence of global batches of an epoch, the same for any number of workers, and a rank's share of a batch."""

import numpy as np
import torch
from torch import Tensor

from rdd.hashing import hash_strings


def global_batches(images: Tensor, *, seed: int, epoch: int, batch_size: int, labels: Tensor | None = None) -> list[Tensor]:
    """The batches of an epoch: a function of seed, epoch and batch size alone, not of the number of workers.

    Args:
        images: ``(n,)`` images of the training part.
        seed: of the run.
        epoch: counted from 0.
        batch_size: images in a global batch, at most.
        labels: ``(n,)``; given them, each class is dealt to the batches evenly, to within one image.

    Returns:
        ceil(n / batch_size) tensors that hold every image once and differ by at most one in length.
    """
    generator = torch.Generator().manual_seed(hash_pair(seed, epoch))
    return deal_batches(images, -(-len(images) // batch_size), generator, labels)


def deal_batches(images: Tensor, number: int, generator: torch.Generator, labels: Tensor | None = None) -> list[Tensor]:
    """A number of random batches that hold every image once and differ by at most one in length.

    Args:
        images: ``(n,)``.
        number: of batches, at most n.
        generator: moved on.
        labels: ``(n,)``; given them, each class is dealt evenly, to within one image.
    """
    shuffled = torch.randperm(len(images), generator=generator)
    if labels is None:
        return list(images[shuffled].tensor_split(number))
    dealt = shuffled[torch.argsort(labels[shuffled], stable=True)]  # one class after the other, dealt out like cards
    batches = [images[dealt[first::number]] for first in range(number)]
    # within a batch the classes are mixed again, since ranks take consecutive slices
    return [batch[torch.randperm(len(batch), generator=generator)] for batch in batches]


def rank_slice(batch: Tensor, *, rank: int, world_size: int) -> Tensor:
    """A rank's share of a global batch: consecutive, and as equal as can be."""
    return batch.tensor_split(world_size)[rank]


def hash_pair(seed: int, number: int) -> int:
    """One 63-bit seed out of two numbers, so that neighbouring seeds and epochs have nothing in common."""
    return int(hash_strings([str(number)], seed=seed)[0] >> np.uint64(1))
