"""Rows of a float16 matrix as batches on a device, as fast as memory allows."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

CPU = torch.device("cpu")

_IN_FLIGHT = 2  # copies to a GPU: one is filled while the other travels


def gather_batches(rows: Tensor, numbers: Iterable[Tensor], *, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """Gather rows, end to end for each image, one batch after the other.

    The rows are gathered in float16, half of what is handed out, and widened where they are needed: on the CPU into one buffer
    that every batch uses again (a new one costs more page faults than arithmetic), on a GPU after the copy to it.

    Args:
        rows: ``(M, D)`` float16, on the CPU or on ``device``.
        numbers: of each batch, ``(N, k)`` int64: the rows of each image.
        device: where the batches go.
        dtype: of the batches.

    Yields:
        ``(N, k D)``, until the next one is asked for: it overwrites this one.
    """
    if rows.device.type != "cpu" and device.type == "cpu":
        for batch in gather_batches(rows, numbers, device=rows.device, dtype=dtype):
            yield batch.cpu()
        return
    if rows.device.type == "cpu" and device.type != "cpu":
        yield from _through_pinned_memory(rows, numbers, device, dtype)
        return
    gathered, widened = rows.new_empty(0, rows.shape[1]), torch.empty(0, dtype=dtype, device=rows.device)
    for row_numbers in numbers:
        count, values = row_numbers.numel(), row_numbers.numel() * rows.shape[1]
        if count > len(gathered):
            gathered, widened = rows.new_empty(count, rows.shape[1]), widened.new_empty(values)
        half = torch.index_select(rows, 0, row_numbers.flatten(), out=gathered[:count])
        yield widened[:values].view(len(row_numbers), -1).copy_(half.view(len(row_numbers), -1))


def _through_pinned_memory(
    rows: Tensor, numbers: Iterable[Tensor], device: torch.device, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Copy each batch on a separate CUDA stream, while the training step on the previous batch runs.

    The host waits only for the copy of the batch before the previous one, whose buffer is filled again.
    """
    copying = torch.cuda.Stream(device)
    buffers = [torch.empty(0, dtype=rows.dtype, pin_memory=True) for _ in range(_IN_FLIGHT)]
    copied = [torch.cuda.Event() for _ in range(_IN_FLIGHT)]
    for turn, row_numbers in enumerate(numbers):
        slot, count, values = turn % _IN_FLIGHT, row_numbers.numel(), row_numbers.numel() * rows.shape[1]
        copied[slot].synchronize()
        if values > len(buffers[slot]):
            buffers[slot] = torch.empty(values, dtype=rows.dtype, pin_memory=True)
        half = torch.index_select(rows, 0, row_numbers.flatten(), out=buffers[slot][:values].view(count, -1))
        with torch.cuda.stream(copying):
            on_device = half.view(len(row_numbers), -1).to(device, non_blocking=True)
            copied[slot].record(copying)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        on_device.record_stream(computing)  # its memory is the copying stream's, and must outlive the step
        yield on_device.to(dtype)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor on a device; on its way to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)
