"""Features in the GPU's memory, and steps of training on them."""

from pathlib import Path

import pytest
import torch
from _training import first_losses
from synthetic import write_features

from rdd.features import FeatureTable

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

GPU = torch.device("cuda", 0)


@pytest.fixture
def table(tmp_path: Path) -> FeatureTable:
    path = write_features(tmp_path / "features", records=2_000, images=5)
    return FeatureTable.load(path, shared=str(tmp_path / "maps"))


def test_features_lie_in_the_gpus_memory_and_are_the_same(table: FeatureTable) -> None:
    before = torch.cuda.memory_allocated()
    held = table.to(GPU)
    size = sum(matrix.numel() * matrix.element_size() for matrix in table.matrices.values())
    assert held.device == GPU
    assert size <= torch.cuda.memory_allocated() - before < 1.01 * size + 2**20
    images = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    parts = list(images.split(999))
    on_gpu = [batch.features.cpu() for batch in held.batches(parts, "official", device=GPU)]
    on_cpu = [batch.features.clone() for batch in table.batches(parts, "official")]
    assert all(torch.equal(one, other) for one, other in zip(on_gpu, on_cpu, strict=True))


def test_the_first_steps_are_those_of_the_cpu(table: FeatureTable) -> None:
    on_cpu = first_losses(table, torch.device("cpu"))
    torch.cuda.reset_peak_memory_stats()
    assert first_losses(table.to(GPU), GPU) == pytest.approx(on_cpu, rel=1e-3)
    assert first_losses(table, GPU) == pytest.approx(on_cpu, rel=1e-3)  # from a memory map, batch by batch
