"""The whole state of a training run at the end of an epoch: weights, optimizer, position, history.

Random state needs no place in it: batches are a function of (seed, epoch), dropout masks of (seed, step, rank).
"""

import io
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from rdd import storage


@dataclass
class TrainState:
    """Where a run stands after ``epoch`` epochs."""

    epoch: int
    """Epochs done."""
    model: dict[str, torch.Tensor]
    """Weights and BatchNorm statistics."""
    optimizer: dict[str, Any]
    """SAM's state, the base optimizer's moments among it."""
    best_auroc: float
    """Largest validation AUC so far."""
    best_epoch: int
    """The epoch that had it, counted from 1."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of each epoch."""


def save_state(path: str, state: TrainState) -> None:
    """Write a checkpoint, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(asdict(state), buffer)
    storage.write_bytes(path, buffer.getvalue())


def load_state(path: str) -> TrainState:
    """Read a checkpoint; tensors and plain values only, no code.

    Raises:
        RuntimeError: the file is torn or no checkpoint.
    """
    try:
        return TrainState(**torch.load(io.BytesIO(storage.read_bytes(path)), map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises half a dozen types for a file that is not its own
        raise RuntimeError(f"{path} is torn or no checkpoint ({type(error).__name__}); delete it to begin again") from error
