r"""The objective, :math:`L = \gamma L_{CVaR} + (1 - \gamma) L_{AUC}`, closed and exact, over one process or many.

Of a batch that holds each image and a degraded view of it, a term that draws the two together may be added.

Across processes a loss takes ``group``: its value is then that of the gathered batch, on every rank, and autograd on rank r
gives the gradient of that value with respect to rank r's own inputs. Parameter gradients are therefore *summed* over ranks.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from rdd.collectives import first_order_only, gather_own_gradient
from rdd.config import LossConfig
from rdd.consistency import consistency_loss

_LARGEST_SORTED = 16  # time goes by p^2 and memory by p
_BLOCK = 4096  # pairs are taken 4096 x 4096 at a time: 128 MiB in float64


def cvar_loss(losses: Tensor, *, alpha: float, group: dist.ProcessGroup | None = None) -> Tensor:
    r"""Mean of the worst ``alpha`` share of per-example losses (conditional value at risk).

    .. math:: \min_\lambda \; \lambda + \tfrac{1}{\alpha n} \sum_i [\ell_i - \lambda]_+

    A minimiser is the k-th largest loss, with k = ceil(alpha n). There the value is the sum of the k largest losses, minus
    (k - alpha n) times the k-th largest, divided by alpha n. For k > 1 at most half of the sum is subtracted, so no digits are
    lost, however small the losses are.

    Args:
        losses: ``(N,)`` float, one loss per example, with grad.
        alpha: level in (0, 1]; 1 is the plain mean, 1/N the maximum.
        group: process group; given one, the value of the gathered global batch (gradients: sum over ranks).

    Returns:
        Scalar, at least float32.

    Raises:
        ValueError: ``losses`` is empty or not 1-D, or ``alpha`` is out of range.

    Reference:
        Rockafellar & Uryasev (2000); L_CVaR of arXiv:2404.12908.

    Example:
        >>> cvar_loss(torch.tensor([1.0, 2.0, 3.0, 4.0]), alpha=0.5)
        tensor(3.5000)
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
    losses = _at_least_float32(_vector(losses, "losses"))
    if group is not None:
        losses = gather_own_gradient(losses, group)
    if not len(losses):
        raise ValueError("losses must hold at least one example, got none")
    mass = alpha * len(losses)
    count = min(len(losses), max(1, math.ceil(mass - 1e-9)))  # 0.8 * 10 is a little more than 8 in floating point
    if count == 1:
        return losses.amax()
    worst = torch.topk(losses, count, sorted=False).values
    missing = count - mass  # of the weight of the boundary example, the smallest of them
    total = worst.sum() if missing < 1e-9 else worst.sum() - missing * worst.amin()
    return total / mass


def pairwise_auc_loss(
    logits: Tensor, labels: Tensor, *, eta: float, p: float, group: dist.ProcessGroup | None = None
) -> Tensor:
    r"""Margin loss over all pairs of a generated and a real example, a surrogate of 1 - AUC.

    .. math:: \tfrac{1}{n_+ n_-} \sum_{i \in +} \sum_{j \in -} [\eta - (s_i - s_j)]_+^p

    For whole p up to 16 in O(n log n) time and O(n) memory by sorting, in float64; for other p exactly, in blocks of pairs.

    Args:
        logits: ``(N,)`` float, with grad; raw, or any other score.
        labels: ``(N,)``: 0 real, 1 generated.
        eta: margin in (0, 1].
        p: power, above 1.
        group: process group; given one, the value of the gathered global batch (gradients: sum over ranks).

    Returns:
        Scalar, at least float32; 0 with zero gradient where a class is absent.

    Raises:
        ValueError: shapes differ or are not 1-D, or ``eta`` or ``p`` is out of range.

    Reference:
        L_AUC of arXiv:2404.12908; all pairs by sorting: arXiv:2302.11062.

    Example:
        >>> pairwise_auc_loss(torch.tensor([2.0, 0.0]), torch.tensor([0, 1]), eta=0.5, p=2)
        tensor(6.2500)
    """
    if not 0 < eta <= 1:
        raise ValueError(f"eta must lie in (0, 1], got {eta}")
    if not 1 < p < math.inf:
        raise ValueError(f"p must be above 1 and finite, got {p}")
    logits, labels = _vector(logits, "logits"), _vector(labels, "labels")
    if logits.shape != labels.shape:
        raise ValueError(f"logits and labels must have one shape, got {tuple(logits.shape)} and {tuple(labels.shape)}")
    dtype = _at_least_float32(logits).dtype
    if group is not None:
        logits = gather_own_gradient(logits, group)
        labels = gather_own_gradient(labels.to(torch.float32), group)
    pairs = _sorted_pairs if float(p).is_integer() and p <= _LARGEST_SORTED else _blocked_pairs
    return _AllPairs.apply(logits.to(torch.float64), labels > 0.5, eta, p, pairs).to(dtype)


class CvarAucLoss:
    """The objective of the paper on raw logits.

    Args:
        alpha: CVaR level in (0, 1].
        gamma: weight of L_CVaR in [0, 1].
        eta: margin of the AUC loss in (0, 1].
        p: power of the AUC loss, above 1.
        group: process group; given one, the loss of the gathered global batch.
        auc_on: compare raw logits (the official code) or their sigmoid.
        consistency: weight, at least 0, of :func:`~rdd.consistency.consistency_loss` of a batch with views.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        *,
        alpha: float,
        gamma: float,
        eta: float,
        p: float,
        group: dist.ProcessGroup | None = None,
        auc_on: Literal["logits", "scores"] = "logits",
        consistency: float = 0.0,
    ) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma}")
        if not 0 <= consistency < math.inf:
            raise ValueError(f"consistency must be at least 0 and finite, got {consistency}")
        self._alpha, self._gamma, self._eta, self._p = alpha, gamma, eta, p
        self._group, self._auc_on, self._consistency = group, auc_on, consistency
        self.components: dict[str, Tensor] = {}
        """Of the last call, detached: ``loss_cvar``, ``loss_auc``, and ``one_class_batches``, 1 where a class was absent; of a
        batch with views ``loss_consistency``, whatever its weight."""

    @classmethod
    def from_config(cls, config: LossConfig, group: dist.ProcessGroup | None = None) -> "CvarAucLoss":
        """The objective that a config names; ``scope: local`` takes no notice of the group."""
        return cls(
            alpha=config.alpha,
            gamma=config.gamma,
            eta=config.eta,
            p=config.p,
            auc_on=config.auc_on,
            consistency=config.consistency,
            group=group if config.scope == "global" else None,
        )

    def __call__(self, logits: Tensor, labels: Tensor, *, sizes: Sequence[int] | None = None, copies: int = 1) -> Tensor:
        """The loss.

        Args:
            logits: ``(N,)`` raw.
            labels: ``(N,)``: 0 real, 1 generated.
            sizes: N of each rank of the group, where the caller knows them, so that nobody waits for the device.
            copies: rows of each image, on every rank one after the other: 1, or 2 for itself and a view of it.

        Returns:
            Scalar, at least float32.
        """
        logits = _at_least_float32(logits)
        labels = labels.to(logits.dtype)
        if self._group is not None:  # once for both terms, which then are the same on every rank
            logits, labels = gather_own_gradient(torch.stack([logits, labels], 1), self._group, sizes).unbind(1)
        loss, cvar, auc = self._terms(logits, labels, pairwise_auc_loss)
        one_class = (labels.amin() == labels.amax()).to(logits.dtype)
        self.components = {"loss_cvar": cvar.detach(), "loss_auc": auc.detach(), "one_class_batches": one_class}
        if copies == 1:
            return loss
        apart = consistency_loss(logits[0::2], logits[1::2])
        self.components["loss_consistency"] = apart.detach()
        return loss + self._consistency * apart

    def twice_differentiable(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The same value in plain operations, with a matrix of all pairs, for second derivatives; in one process.

        Args:
            logits: ``(N,)`` raw.
            labels: ``(N,)``: 0 real, 1 generated; both must be there.
        """
        return self._terms(logits, labels.to(logits.dtype), _matrix_auc_loss)[0]

    def _terms(self, logits: Tensor, labels: Tensor, auc_loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The objective and its two terms, L_CVaR and L_AUC."""
        losses = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        cvar = cvar_loss(losses, alpha=self._alpha)
        compared = torch.sigmoid(logits) if self._auc_on == "scores" else logits
        auc = auc_loss(compared, labels, eta=self._eta, p=self._p)
        return self._gamma * cvar + (1 - self._gamma) * auc, cvar, auc


def _matrix_auc_loss(logits: Tensor, labels: Tensor, *, eta: float, p: float) -> Tensor:
    """:func:`pairwise_auc_loss` by the matrix of all pairs, which autograd differentiates as often as one likes."""
    differences = logits[labels == 1][:, None] - logits[labels == 0][None, :]
    return (eta - differences).clamp(min=0).pow(p).mean()


_Pairs = Callable[[Tensor, Tensor, float, float], tuple[Tensor, Tensor]]
"""Takes scores, a mask of the positives, eta and p; returns the sum over pairs and its gradient by each score."""


class _AllPairs(torch.autograd.Function):
    """Mean over pairs; the gradient is computed with the value, so the backward pass needs only this one saved vector."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, positive: Tensor, eta: float, p: float, pairs: _Pairs) -> Tensor:
        total, gradient = pairs(scores, positive, eta, p)
        count = positive.sum(dtype=torch.float64)
        number = (count * (len(scores) - count)).clamp(min=1)  # no pair: the sum is 0, and so is the loss
        ctx.save_for_backward(gradient / number)
        return total / number

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        first_order_only("pairwise_auc_loss")
        (gradient,) = ctx.saved_tensors
        return grads[0] * gradient, None, None, None, None


def _sorted_pairs(scores: Tensor, positive: Tensor, eta: float, p: float) -> tuple[Tensor, Tensor]:
    """Sum over pairs by one sort: with v = s for positives and s + eta for negatives, pairs count where v_j > v_i.

    Go through the sorted v downwards and let S_k be the sum of (v_j - v)^k over the negatives passed so far. Moving down by a
    gap d turns S_k into sum_l C(k, l) d^(k - l) S_l. So k nested cumulative sums give it, and since no term is negative, no
    digits are lost. The same upwards, over the positives, gives the gradient with respect to the negatives.
    """
    power = int(p)
    values = torch.where(positive, scores, scores + eta)
    values, order = torch.sort(values, descending=True)
    ordered_positive = positive[order]
    gaps = torch.zeros_like(values)
    gaps[1:] = values[:-1] - values[1:]
    above = _power_sums(gaps, ~ordered_positive, power)
    below = _power_sums(torch.cat([gaps[1:], gaps[:1] * 0]).flip(0), ordered_positive.flip(0), power - 1)
    total = torch.where(ordered_positive, above[power], 0).sum()
    slopes = torch.where(ordered_positive, -p * above[power - 1], p * below[power - 1].flip(0))
    return total, torch.empty_like(slopes).scatter_(0, order, slopes)


def _power_sums(gaps: Tensor, counted: Tensor, power: int) -> list[Tensor]:
    """S_0 to S_power at each place: sums of (distance to the counted places before it)^k.

    Args:
        gaps: ``(N,)`` distance of each place to the one before it, not negative; the first is 0.
        counted: ``(N,)`` bool.
        power: largest k.
    """
    passed = torch.cumsum(counted, 0, dtype=gaps.dtype)
    sums = [passed - counted.to(gaps.dtype)]  # before the place itself
    before = [torch.cat([passed.new_zeros(1), passed[:-1]])]
    for k in range(1, power + 1):
        step = torch.zeros_like(gaps)
        for low in range(k):
            step += math.comb(k, low) * gaps ** (k - low) * before[low]
        total = torch.cumsum(step, 0)
        sums.append(total)
        before.append(torch.cat([total.new_zeros(1), total[:-1]]))
    return sums


def _blocked_pairs(scores: Tensor, positive: Tensor, eta: float, p: float) -> tuple[Tensor, Tensor]:
    """Sum over pairs, a block of the pair matrix at a time."""
    total, gradient = scores.new_zeros(()), torch.zeros_like(scores)
    for first in range(0, len(scores), _BLOCK):
        rows = slice(first, first + _BLOCK)
        for start in range(0, len(scores), _BLOCK):
            columns = slice(start, start + _BLOCK)
            violation = (eta - (scores[rows, None] - scores[None, columns])).clamp(min=0)
            violation = violation * (positive[rows, None] & ~positive[None, columns])
            slope = p * violation ** (p - 1)
            total = total + (violation**p).sum()
            gradient[rows] -= slope.sum(1)
            gradient[columns] += slope.sum(0)
    return total, gradient


def _vector(tensor: Tensor, name: str) -> Tensor:
    if tensor.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got shape {tuple(tensor.shape)}")
    return tensor


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)
