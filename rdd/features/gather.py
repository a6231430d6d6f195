"""Rows of matrices as batches on a device, as fast as memory allows."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

CPU = torch.device("cpu")

_IN_FLIGHT = 2  # copies to a GPU: one is filled while the other travels


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
    buffer, widened = _Buffer(matrices, 0), torch.empty(0, dtype=dtype, device=held_on)
    for rows in chosen:
        count = len(rows[0])
        if count > len(widened):
            buffer = _Buffer(matrices, count)
            widened = torch.empty(count, sum(buffer.widths), dtype=dtype, device=held_on)
        batch = widened[:count]
        for place, block in zip(batch.split(buffer.widths, dim=1), buffer.filled(matrices, rows), strict=True):
            place.copy_(block)
        yield batch


class _Buffer:
    """Room for the rows of a batch as they are kept, side by side: a block for each run of matrices of one dtype.

    Args:
        matrices: from which the rows come.
        count: of the images.
        pinned: whether the blocks can be copied to a GPU while the host goes on.
    """

    def __init__(self, matrices: Sequence[Tensor], count: int, *, pinned: bool = False) -> None:
        self._blocks: list[Tensor] = []
        self._parts: list[Tensor] = []
        for dtype, group in itertools.groupby(matrices, key=lambda matrix: matrix.dtype):
            widths = [matrix.shape[1] for matrix in group]
            block = torch.empty(count, sum(widths), dtype=dtype, device=matrices[0].device, pin_memory=pinned)
            self._blocks.append(block)
            self._parts += block.split(widths, dim=1)

    def __len__(self) -> int:
        """Images that there is room for."""
        return len(self._blocks[0])

    @property
    def widths(self) -> list[int]:
        """Of each block."""
        return [block.shape[1] for block in self._blocks]

    def filled(self, matrices: Sequence[Tensor], rows: Chosen) -> list[Tensor]:
        """The blocks with some rows of the matrices."""
        count = len(rows[0])
        for part, matrix, numbers in zip(self._parts, matrices, rows, strict=True):
            torch.index_select(matrix, 0, numbers, out=part[:count])  # into a part of each row: faster than to join them after
        return [block[:count] for block in self._blocks]


def _through_pinned_memory(
    matrices: Sequence[Tensor], chosen: Iterable[Chosen], device: torch.device, dtype: torch.dtype
) -> Iterator[Tensor]:
    """Copy each batch on a separate CUDA stream, while the training step on the previous batch runs.

    The host waits only for the copy of the batch before the previous one, whose buffer is filled again.
    """
    copying = torch.cuda.Stream(device)
    buffers = [_Buffer(matrices, 0, pinned=True) for _ in range(_IN_FLIGHT)]
    copied = [torch.cuda.Event() for _ in range(_IN_FLIGHT)]
    for turn, rows in enumerate(chosen):
        slot, count = turn % _IN_FLIGHT, len(rows[0])
        copied[slot].synchronize()
        if count > len(buffers[slot]):
            buffers[slot] = _Buffer(matrices, count, pinned=True)
        filled = buffers[slot].filled(matrices, rows)
        with torch.cuda.stream(copying):
            on_device = [block.to(device, non_blocking=True) for block in filled]
            copied[slot].record(copying)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for block in on_device:
            block.record_stream(computing)  # its memory is the copying stream's, and must outlive the step
        yield torch.cat([block.to(dtype) for block in on_device], dim=1) if len(on_device) > 1 else on_device[0].to(dtype)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor on a device; on its way to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)
