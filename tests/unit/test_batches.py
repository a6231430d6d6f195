"""The sequence of global batches, and each rank's share of them."""

import pytest
import torch

from rdd.features import global_batches, rank_slice


@pytest.mark.parametrize(("number", "batch_size"), [(100, 10), (101, 10), (7, 100), (99, 33), (1, 1)])
def test_global_batches_hold_every_image_once_in_equal_parts(number: int, batch_size: int) -> None:
    images = torch.arange(1000, 1000 + number)
    batches = global_batches(images, seed=0, epoch=0, batch_size=batch_size)
    sizes = [len(batch) for batch in batches]
    assert len(batches) == -(-number // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat(batches).sort().values, images)


def test_stratified_batches_hold_every_image_once_and_every_class_evenly() -> None:
    images, labels = torch.arange(1000, 1103), (torch.arange(103) % 5 > 0).float()
    batches = global_batches(images, seed=0, epoch=0, batch_size=10, labels=labels)
    assert torch.equal(torch.cat(batches).sort().values, images)
    of_class = [int(labels[batch - 1000].sum()) for batch in batches]
    sizes = [len(batch) for batch in batches]
    assert max(of_class) - min(of_class) <= 1
    assert max(sizes) - min(sizes) <= 1
    plain = global_batches(images, seed=0, epoch=0, batch_size=10)
    assert max(int(labels[batch - 1000].sum()) for batch in plain) - min(of_class) > 1
    halves = torch.stack([labels[rank_slice(batch, rank=0, world_size=2) - 1000].mean() for batch in batches])
    assert 0.5 < halves.mean() < 1  # the classes are mixed within a batch


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    images = torch.arange(500)

    def path(seed: int, epoch: int) -> torch.Tensor:
        return torch.cat(global_batches(images, seed=seed, epoch=epoch, batch_size=50))

    assert torch.equal(path(3, 4), path(3, 4))
    assert not torch.equal(path(3, 4), path(3, 5))
    assert not torch.equal(path(3, 4), path(4, 3))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_slices_of_ranks_make_up_the_batch(world_size: int) -> None:
    batch = torch.arange(20)
    slices = [rank_slice(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(slices), batch)
    assert max(map(len, slices)) - min(map(len, slices)) <= 1
