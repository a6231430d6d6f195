"""Steps of training, one after the other, on any device: the engine's own, and the bare arithmetic of the same head."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn

from rdd.config import Config
from rdd.config.parse import override
from rdd.engine import Learner, train_steps
from rdd.features import FeatureTable
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext

BATCH = 2048

_CPU = torch.device("cpu")


def real_steps(
    path: str, *, maps: str, hidden: int, group: dist.ProcessGroup | None = None, device: torch.device = _CPU
) -> Iterator[int]:
    """The engine's own steps with the default objective, for ever; yields the images of each.

    Args:
        path: of a feature set.
        maps: folder of its memory map.
        hidden: width of the head.
        group: of ranks that share each batch.
        device: where the head is, and the features as well.
    """
    config = override(Config(), {"model.hidden": hidden, "train.batch_size": BATCH, "train.epochs": 1000})
    table = FeatureTable.load(path, shared=maps).to(device)
    context = LocalContext(RunDirectory("/nowhere"), lambda metrics: None, device=device)
    if group is not None:
        context.group, context.rank, context.world_size = group, dist.get_rank(group), dist.get_world_size(group)
    learner = Learner.build(config, table.width("shared"), context)
    images = table.split(config.features, "train")
    for epoch in range(1000):
        sums: dict[str, torch.Tensor] = {}
        for metrics in train_steps(learner, table, images, epoch=epoch):
            sums = {name: sums.get(name, torch.zeros(())) + value for name, value in metrics.items()}
            yield len(images) / -(-len(images) // BATCH)


def bare_steps(width: int, hidden: int = 1536, *, batch: int = BATCH, device: torch.device = _CPU) -> Iterator[int]:
    """Two forward and backward passes of the same head on one batch in memory, and nothing else."""
    layers: list[nn.Module] = []
    for columns in (width, hidden, hidden):
        layers += [nn.Linear(columns, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(0.335)]
    head = nn.Sequential(*layers, nn.Linear(hidden, 1)).to(device)
    features, labels = torch.randn(batch, width, device=device), (torch.arange(batch, device=device) % 5 > 0).float()
    while True:
        for _ in range(2):
            head.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(head(features).squeeze(-1), labels).backward()
        yield batch
