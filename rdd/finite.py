"""A loss that is no number ends a run: the check, which never makes the host wait for a GPU, and its error."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_WAY_OUT = "lower optimizer.lr or sam.rho"


class NotFiniteError(RuntimeError):
    """The loss is not finite; the same run, started again, would fail in the same way."""


def require_finite(loss: Tensor, step: int) -> None:
    """Stop the run before the optimizer changes a weight.

    On a GPU the check is queued on the stream ahead of the optimizer's kernels, and the host does not wait for it: it fails
    later, wherever the host next asks the device for something, so wrap that in :func:`not_finite_on_device`.

    Args:
        loss: scalar.
        step: counted from 0, for the message.

    Raises:
        NotFiniteError: on a CPU, at once.
    """
    message = f"the loss is not finite at step {step}; {_WAY_OUT}"
    try:
        torch._assert_async(torch.isfinite(loss), message)
    except RuntimeError as error:
        raise NotFiniteError(message) from error


@contextmanager
def not_finite_on_device() -> Iterator[None]:
    """Turn a GPU's failed assertion, whose sentence stays on the device, into the error that ends a run for good.

    Without it the run would be taken for one that lost its worker and be tried again. The only assertions that training leaves
    on a GPU are those of :func:`require_finite` and torch's own about indices.

    Raises:
        NotFiniteError: an assertion failed on the device.
    """
    try:
        yield
    except RuntimeError as error:  # torch.AcceleratorError is one
        if "device-side assert" not in str(error):
            raise
        raise NotFiniteError(f"the loss is not finite (an assertion failed on the GPU); {_WAY_OUT}") from error
