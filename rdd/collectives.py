"""Differentiable exchange between processes, exact for one global loss that every rank computes."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_own_gradient(values: Tensor, group: dist.ProcessGroup, sizes: Sequence[int] | None = None) -> Tensor:
    """All ranks' values, concatenated in the order of ranks; backward returns this rank's slice, without communication.

    Every rank computes the same loss of the gathered values, so this rank's slice of the gradient is the gradient of that loss
    with respect to this rank's values.

    Args:
        values: ``(n,)`` or ``(n, k)``, n may differ between ranks.
        group: process group.
        sizes: n of each rank, if the caller knows them; otherwise the ranks exchange them, and the host waits for the device.

    Returns:
        ``(sum of n,)`` or ``(sum of n, k)``.
    """
    return _Gather.apply(values, group, list(sizes) if sizes is not None else rank_sizes(len(values), group, values.device))


def rank_sizes(size: int, group: dist.ProcessGroup, device: torch.device) -> list[int]:
    """The number of each rank; the host waits for the device."""
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([size], device=device), group=group)
    return torch.cat(sizes).tolist()


def all_gathered(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """``(W, ...)``: values of one shape from W ranks, without gradient."""
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, values, group=group)
    return torch.stack(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup, sizes: list[int]) -> Tensor:
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values
        parts = all_gathered(padded, group)
        rank = dist.get_rank(group)
        start = sum(sizes[:rank])
        ctx.own_slice = slice(start, start + sizes[rank])
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        first_order_only("gather_own_gradient")
        return grads[0][ctx.own_slice], None, None


def first_order_only(what: str) -> None:
    """Refuse to be differentiated twice: for a backward pass that gives its gradient in closed form, outside of any graph.

    Torch's ``once_differentiable`` lets it pass where the incoming gradient is a constant, and the second derivative would be
    silently wrong.

    Raises:
        RuntimeError: the backward pass is being recorded.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{what} can not be differentiated twice; take differences of gradients for second derivatives")
