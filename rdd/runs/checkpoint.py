"""The whole state of a training run at the end of an epoch: weights, optimizer, position, history.

Random state needs no place in it: batches are a function of (seed, epoch), dropout masks of (seed, step).
"""

import io
from dataclasses import asdict

import torch

from rdd import storage
from rdd.engine import TrainState


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
