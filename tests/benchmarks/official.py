"""The official training loop, as its code does it: commit 214a0a9 of Purdue-M2/Robust_DM_Generated_Image_Detection.

A data set that hands out one image at a time, torch's loader, the numerical search for lambda, the matrix of all pairs, SAM
with two passes, and a loss that is fetched from the device at every step. Only its devices are left out.
"""

import itertools
from collections.abc import Iterator

import torch
from scipy.optimize import fminbound
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

ALPHA, GAMMA, ETA, P, RHO = 0.8, 0.5, 0.6, 2, 0.05


class Features(Dataset):
    """One image's features and label at a time."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[index], self.labels[index]


class Head(nn.Module):
    """Three blocks of Linear, BatchNorm, LeakyReLU and Dropout, and one logit."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.335) -> None:
        super().__init__()
        widths = [width, hidden, hidden, hidden]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(), nn.Dropout(dropout))
            for a, b in itertools.pairwise(widths)
        )
        self.out = nn.Linear(hidden, 1)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return self.out(features)


def threshplus(values: Tensor) -> Tensor:
    """Positive part, of a copy."""
    return nn.ReLU()(values.clone())


def search_lambda(losses: Tensor, alpha: float) -> float:
    """The bounded scalar search of the official code, an evaluation a device synchronisation."""
    low, high = losses.detach().cpu().numpy().min() - 1000.0, losses.detach().cpu().numpy().max()
    detached = losses.detach()
    return fminbound(lambda x: x + (1.0 / alpha) * threshplus(detached - x).mean().item(), low, high)


def cvar(losses: Tensor, alpha: float) -> Tensor:
    """CVaR at the searched lambda."""
    found = search_lambda(losses, alpha)
    return found + (1.0 / alpha) * threshplus(losses - found).mean()


def auc_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Margin loss over the matrix of all pairs."""
    positive, negative = logits[labels == 1].reshape(-1, 1), logits[labels == 0].reshape(-1, 1)
    differences = (positive - negative.T).reshape(-1)
    violations = differences[differences < ETA]
    return torch.sum((-(violations - ETA)) ** P) / (len(positive) * len(negative))


def total_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """gamma * CVaR + (1 - gamma) * AUC."""
    losses = nn.BCEWithLogitsLoss(reduction="none")(logits.squeeze(-1), labels)
    return GAMMA * cvar(losses, ALPHA) + (1 - GAMMA) * auc_loss(logits.squeeze(-1), labels)


def freeze_statistics(model: nn.Module, frozen: bool) -> None:
    """Running statistics of BatchNorm stand still in the second pass."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            if frozen:
                module.backup_momentum = module.momentum
                module.momentum = 0
            else:
                module.momentum = module.backup_momentum


class Sam:
    """The usual public implementation of SAM, one parameter at a time."""

    def __init__(self, params: list[Tensor], base: torch.optim.Optimizer) -> None:
        self.params, self.base = params, base
        self.before: list[Tensor] = []

    @torch.no_grad()
    def first_step(self) -> None:
        norm = torch.norm(torch.stack([param.grad.norm(p=2) for param in self.params]), p=2)
        scale = RHO / (norm + 1e-12)
        self.before = [param.clone() for param in self.params]
        for param in self.params:
            param.add_(param.grad * scale)
        self.base.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for param, before in zip(self.params, self.before, strict=True):
            param.data = before
        self.base.step()
        self.base.zero_grad()


def training_steps(features: Tensor, labels: Tensor, *, hidden: int, batch_size: int, loader_workers: int) -> Iterator[int]:
    """Train for ever; yields the images of each step."""
    model = Head(features.shape[1], hidden)
    sam = Sam(list(model.parameters()), torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01))
    loader = DataLoader(
        Features(features, labels),
        batch_size=batch_size,
        shuffle=True,
        num_workers=loader_workers,
        persistent_workers=loader_workers > 0,
    )
    running = 0.0
    while True:
        for batch, target in loader:
            freeze_statistics(model, True)
            freeze_statistics(model, False)
            total_loss(model(batch), target).backward()
            sam.first_step()
            freeze_statistics(model, True)
            loss = total_loss(model(batch), target)
            loss.backward()
            sam.second_step()
            freeze_statistics(model, False)
            running += loss.item()
            yield len(target)
