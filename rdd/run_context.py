"""What the training loop and the process that it runs in know of each other: the state of a run, and its context."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist


@dataclass
class TrainState:
    """Where a run stands: after ``epoch`` epochs and ``step`` steps of the next one."""

    epoch: int
    """Epochs done."""
    model: dict[str, torch.Tensor]
    """Weights and BatchNorm statistics."""
    optimizer: dict[str, Any]
    """SAM's state, the base optimizer's moments among it."""
    best_auroc: float
    """Validation AUC of the best epoch."""
    best_epoch: int
    """The best epoch so far, counted from 1: largest validation AUC, then lowest validation loss, then the latest."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each epoch."""
    best_loss: float = math.inf
    """Validation loss of the best epoch."""
    step: int = 0
    """Steps done of the epoch that is under way; 0 at the end of an epoch."""
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """Of the metrics of those steps, scalars."""
    seconds: float = 0.0
    """That those steps took."""

    @classmethod
    def at_start(cls) -> "TrainState":
        """Before the first step."""
        return cls(0, {}, {}, best_auroc=-1.0, best_epoch=0)


class RunContext(Protocol):
    """What the training loop needs from the process that it runs in: ranks, device, checkpoints and reports."""

    rank: int
    world_size: int
    group: dist.ProcessGroup | None
    """The ranks' process group; None where there is one rank."""
    device: torch.device

    def load(self) -> TrainState | None:
        """The last checkpoint, if the run has one."""

    def save(self, state: TrainState, *, best: bool) -> None:
        """Keep a checkpoint as the last, and as the best if it is; called by every rank, written by one, perhaps later."""

    def wait_until_saved(self) -> None:
        """Wait until every checkpoint is written."""

    def between_steps(self, state: Callable[[], TrainState]) -> None:
        """A step is done, and it is not the last of its epoch: where a checkpoint may be kept within an epoch.

        Called by every rank equally often; must be cheap.

        Args:
            state: makes the state after that step.
        """

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """A step of an epoch is done, counted from 1; must be cheap."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Metrics of an epoch; called by every rank equally often."""
