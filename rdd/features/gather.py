"""Rows of matrices as batches on a device, as fast as memory allows."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

CPU = torch.device("cpu")

_SLOTS = range(2)  # copies to a GPU: one is filled while the other travels


Chosen = Sequence[Tensor]
"""Of each matrix, ``(N,)`` int64: the row of each image."""


def gather_batches(
    matrices: Sequence[Tensor], chosen: Iterable[Chosen], *, device: torch.device, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Gather a row of each matrix, end to end for each image, one batch after the other.

    The rows are gathered as they are kept, mostly in float16, half of what is handed out, and widened where they are needed: on
    the CPU into one buffer that every batch uses again (a new one costs more page faults than arithmetic), on a GPU after the
    copy to it.

    Args:
        matrices: each ``(M, width)``, all on the CPU or all on ``device``.
        chosen: of each batch, which rows.
        device: where the batches go.
        dtype: of the batches.

    Yields:
        ``(N, sum of the widths)``, until the next one is asked for: it overwrites this one.
    """
    held_on = matrices[0].device
    if held_on.type != "cpu" and device.type == "cpu":
        for batch in gather_batches(matrices, chosen, device=held_on, dtype=dtype):
            yield batch.cpu()
        return
    if held_on.type == "cpu" and device.type != "cpu":
        yield from _through_pinned_memory(matrices, chosen, device, dtype)
        return
    widths = [matrix.shape[1] for matrix in matrices]
    widened = torch.empty(0, sum(widths), dtype=dtype, device=held_on)
    gathered = [matrix.new_empty(0, matrix.shape[1]) for matrix in matrices]
    for rows in chosen:
        count = len(rows[0])
        if count > len(widened):
            widened = widened.new_empty(count, sum(widths))
            gathered = [matrix.new_empty(count, matrix.shape[1]) for matrix in matrices]
        batch = widened[:count]
        for part, matrix, numbers, buffer in zip(batch.split(widths, dim=1), matrices, rows, gathered, strict=True):
            part.copy_(torch.index_select(matrix, 0, numbers, out=buffer[:count]))
        yield batch


def _through_pinned_memory(
    matrices: Sequence[Tensor], chosen: Iterable[Chosen], device: torch.device, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Copy each batch on a separate CUDA stream, while the training step on the previous batch runs.

    The host waits only for the copy of the batch before the previous one, whose buffers are filled again.
    """
    copying = torch.cuda.Stream(device)
    widths = [matrix.shape[1] for matrix in matrices]
    buffers = [[torch.empty(0, width, dtype=m.dtype) for m, width in zip(matrices, widths, strict=True)] for _ in _SLOTS]
    copied = [torch.cuda.Event() for _ in _SLOTS]
    for turn, rows in enumerate(chosen):
        slot, count = turn % len(_SLOTS), len(rows[0])
        copied[slot].synchronize()
        if count > len(buffers[slot][0]):
            buffers[slot] = [torch.empty(count, m.shape[1], dtype=m.dtype, pin_memory=True) for m in matrices]
        filled = [
            torch.index_select(matrix, 0, numbers, out=buffer[:count])
            for matrix, numbers, buffer in zip(matrices, rows, buffers[slot], strict=True)
        ]
        with torch.cuda.stream(copying):
            on_device = [part.to(device, non_blocking=True) for part in filled]
            copied[slot].record(copying)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        batch = torch.empty(count, sum(widths), dtype=dtype, device=device)
        for place, part in zip(batch.split(widths, dim=1), on_device, strict=True):
            part.record_stream(computing)  # its memory is the copying stream's, and must outlive the step
            place.copy_(part)
        yield batch


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor on a device; on its way to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)
