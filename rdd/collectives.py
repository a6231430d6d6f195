"""Differentiable exchange between processes, exact for one global loss that every rank computes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_own_gradient(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """All ranks' values, end to end by rank; the gradient is the own slice, without communication.

    Every rank computes the same loss of the gathered values, so the own slice of the gradient is the gradient of that loss by
    the own values.

    Args:
        values: ``(n,)``, n may differ between ranks.
        group: process group.

    Returns:
        ``(sum of n,)``.
    """
    return _Gather.apply(values, group)


def sum_over_ranks(values: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum over ranks; the gradient is summed as well, since every rank's loss depends on every rank's values."""
    return _Sum.apply(values, group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(dist.get_world_size(group))]
        dist.all_gather(sizes, torch.tensor([len(values)], device=values.device), group=group)
        lengths = torch.cat(sizes).tolist()
        padded = values.new_zeros(max(lengths))
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=group)
        rank = dist.get_rank(group)
        start = sum(lengths[:rank])
        ctx.own = slice(start, start + lengths[rank])
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0][ctx.own], None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
