"""The whole state of a training run after any of its steps: weights, optimizer, position, history.

Random state needs no place in it: batches are a function of (seed, epoch), dropout masks of (seed, step).
"""

import io
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from rdd import storage
from rdd.run_context import TrainState


def save_state(path: str, state: TrainState) -> None:
    """Write a checkpoint, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(dict(vars(state)), buffer)
    storage.write_bytes(path, buffer.getvalue())


def load_state(path: str, *, way_out: str = "delete it to begin again") -> TrainState:
    """Read a checkpoint; tensors and plain values only, no code.

    Args:
        path: the file.
        way_out: what a person can do about a torn one; ends the error.

    Raises:
        RuntimeError: the file is torn, a bit of it has changed since it was written, or it is no checkpoint.
    """
    data = storage.read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            changed = archive.testzip()  # torch writes checksums and does not look at them
        if changed is not None:
            raise ValueError(f"{changed} in it has another checksum")
        return TrainState(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises half a dozen types for a file that is not its own
        said = " ".join(str(error).split())[:100]
        raise RuntimeError(f"{path} is torn or no checkpoint ({type(error).__name__}: {said}); {way_out}") from error


class StateWriter:
    """Writes states beside the next steps of training, one after the other.

    Training changes weights and moments in place, so each state is copied first: on a GPU into pinned memory, by a copy that
    the next steps queue behind.

    Args:
        write: writes one state, as the best or not; called in a thread of its own.
    """

    def __init__(self, write: Callable[[TrainState, bool], None]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def save(self, state: TrainState, *, best: bool) -> None:
        """Take a copy and begin to write it, when the one before is written.

        Raises:
            Exception: what the writing of the one before raised.
        """
        self.wait()
        copied = None
        state = TrainState(**{name: _on_host(value) for name, value in vars(state).items()})
        if torch.cuda.is_available():
            copied = torch.cuda.Event()
            copied.record()
        self._writing = self._thread.submit(self._wait_and_write, state, best, copied)

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            Exception: what the writing raised.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _wait_and_write(self, state: TrainState, best: bool, copied: "torch.cuda.Event | None") -> None:
        if copied is not None:
            copied.synchronize()
        self._write(state, best)


def _on_host(value: Any) -> Any:
    """A copy with its tensors in memory of the host that nobody else writes to."""
    if isinstance(value, torch.Tensor):
        host = torch.empty_like(value, device="cpu", pin_memory=value.device.type == "cuda")
        return host.copy_(value.detach(), non_blocking=True)
    if isinstance(value, dict):
        return {key: _on_host(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_on_host(one) for one in value]
    return value
