"""The head: features to one raw logit an image, by an MLP, a linear layer, or an MLP behind a mean of blocks."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from rdd.block_mixer import BlockMixer, check_blocks
from rdd.collectives import all_gathered, first_order_only

_ALL = slice(None)

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.01)}


class DetectorHead(nn.Module):
    """Hidden layers of Linear -> BatchNorm -> activation -> Dropout, then Linear to one logit.

    With the paper's numbers (1536 wide, three layers, 1536 features in) it has 7,093,249 parameters.

    Args:
        in_features: columns of the features.
        hidden: width of each hidden layer.
        layers: hidden layers; 0 is a linear head, which starts at zero: what a random start has in directions that the training
            part does not have would stay there, and count on other images.
        dropout: probability in [0, 1).
        activation: ``relu`` as in the paper, ``leaky_relu`` (slope 0.01) as in the official code.
        text_dropout: probability in [0, 1) that the last columns of an image's features, its text, are replaced by a learned
            vector in training. Above 0 the head works without text, too.
        text_features: how many columns those are; by default half.
        standardize: whether each column is scaled by a mean and a deviation, see :meth:`set_moments`, before anything else; the
            learned vector then stands in for a text that is scaled already.
        kind: ``mlp`` takes all columns; ``blocks`` a :class:`~rdd.block_mixer.BlockMixer` of the inputs, then text.
        projection: columns to which ``blocks`` projects each input.
        input_widths: of each input of the image, in their order; only ``blocks`` has a use for it.

    Raises:
        ValueError: ``blocks`` is given a single input, or inputs of several widths.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        in_features: int,
        *,
        hidden: int = 1536,
        layers: int = 3,
        dropout: float = 0.335,
        activation: Literal["relu", "leaky_relu"] = "relu",
        text_dropout: float = 0.0,
        text_features: int | None = None,
        standardize: bool = False,
        kind: Literal["mlp", "blocks"] = "mlp",
        projection: int = 128,
        input_widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.in_features, self.dropout, self.text_dropout = in_features, dropout, text_dropout
        of_text = in_features // 2 if text_features is None else text_features
        self.no_text = nn.Parameter(torch.zeros(of_text)) if text_dropout > 0 else None
        self.standardize = standardize
        if standardize:
            self.register_buffer("mean", torch.zeros(in_features))
            self.register_buffer("deviation", torch.ones(in_features))
        self.mixer = None
        self.hidden = nn.ModuleList()
        width = in_features
        if kind == "blocks":
            check_blocks(input_widths)
            self.mixer = BlockMixer(len(input_widths), input_widths[0], projection=projection)
            width = in_features - sum(input_widths) + projection
        for _ in range(layers):
            linear = nn.Linear(width, hidden)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            # BatchNorm subtracts this bias again, so its gradient is only rounding noise, which AdamW would scale to full steps
            nn.init.zeros_(linear.bias).requires_grad_(False)
            self.hidden.append(nn.Sequential(linear, GlobalBatchNorm(hidden), _ACTIVATIONS[activation]()))
            width = hidden
        self.out = nn.Linear(width, 1)
        if layers == 0:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, masks: "Masks | None" = None) -> Tensor:
        """Raw logits of images; positive means generated.

        Args:
            features: ``(N, in_features)``; a head with ``text_dropout`` also takes images without their text.
            masks: what to drop, for training; by default drawn anew.

        Returns:
            ``(N,)``, in the precision of the weights also under autocast, since a rounded logit makes ties.
        """
        if not self.training:
            masks = Masks([None] * len(self.hidden), None)
        elif masks is None:
            masks = self.draw_masks(len(features), features.dtype)
        values = self._standardized(features) if self.standardize else features
        if self.no_text is not None:
            values = _without_some_text(values, self.no_text, masks.text, in_features=self.in_features)
        if self.mixer is not None:
            tokens = self.mixer.blocks * self.mixer.width
            values = torch.cat([self.mixer(values[:, :tokens]), values[:, tokens:]], dim=1)
        for block, mask in zip(self.hidden, masks.hidden, strict=True):
            values = block(values) if mask is None else block(values) * mask
        with torch.autocast(values.device.type, enabled=False):
            return self.out(values.to(self.out.weight.dtype)).squeeze(-1)

    def draw_masks(
        self, number: int, dtype: torch.dtype, generator: torch.Generator | None = None, *, rows: slice = _ALL
    ) -> "Masks":
        """Random masks for a pass over some images; two passes with the same masks use the same subnetwork.

        Args:
            number: N, of images.
            dtype: of the activations.
            generator: on the device of the head; by default torch's own.
            rows: of a global batch of N images, the share that this process passes through the head.
        """
        device, width = self.out.weight.device, self.out.in_features
        hidden: Sequence[Tensor | None] = [None] * len(self.hidden)
        if self.dropout and self.hidden:
            shape = (len(self.hidden), number, width)
            drawn = dropout_mask(shape, self.dropout, dtype=dtype, device=device, generator=generator, rows=rows)
            hidden = drawn.unbind()
        if self.no_text is None:
            return Masks(hidden, None)
        return Masks(hidden, torch.rand(number, 1, device=device, generator=generator)[rows] < self.text_dropout)

    def set_moments(self, mean: Tensor, deviation: Tensor) -> None:
        """Take what a head with ``standardize`` subtracts from each column and divides it by.

        Args:
            mean: ``(in_features,)``.
            deviation: ``(in_features,)``, above 0.
        """
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def _standardized(self, features: Tensor) -> Tensor:
        """The columns that are there, which may be those of the image alone, in deviations from their mean."""
        columns = features.shape[1]
        return (features - self.mean[:columns]) / self.deviation[:columns]

    def set_group(self, group: dist.ProcessGroup | None) -> None:
        """Normalise over the batch of all ranks of a process group, or over the own batch."""
        for module in self.modules():
            if isinstance(module, GlobalBatchNorm):
                module.group = group

    def track_statistics(self, track: bool) -> None:
        """Whether training batches move BatchNorm's running statistics; SAM's second pass must not."""
        for module in self.modules():
            if isinstance(module, GlobalBatchNorm):
                module.track = track


class Masks(NamedTuple):
    """What a training pass drops."""

    hidden: Sequence[Tensor | None]
    """Of each hidden layer, ``(N, hidden)``: 0, or the inverse of the share that is kept; None where nothing is dropped."""
    text: Tensor | None
    """``(N, 1)`` bool: images whose text is replaced."""

    def repeated(self, copies: int) -> "Masks":
        """The masks for so many rows of each image, one after the other, which all see the same subnetwork."""
        if copies == 1:
            return self
        hidden = [None if mask is None else mask.repeat_interleave(copies, 0) for mask in self.hidden]
        return Masks(hidden, None if self.text is None else self.text.repeat_interleave(copies, 0))


def dropout_mask(
    shape: tuple[int, int, int],
    share: float,
    *,
    dtype: torch.dtype,
    device: torch.device,
    generator: torch.Generator | None = None,
    rows: slice = _ALL,
) -> Tensor:
    """A mask that drops a share of values and scales the others up, 16 random bits a value.

    On a CPU, where random numbers come one after the other, this takes an eighth of ``bernoulli_``, which would be a twentieth
    of a training step. The share is rounded to 1/65,536.

    Args:
        shape: (layers, N, width).
        share: of the values that is dropped, in [0, 1).
        dtype: of the mask.
        device: of the mask.
        generator: by default torch's own.
        rows: of the N that are made; random bits are drawn for all N, so that ranks with other rows draw alike.
    """
    number = math.prod(shape)
    bits = torch.empty(-(-number // 4), dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    dropped = min(round(share * 2**16), 2**16 - 1)
    keep = bits.view(torch.int16)[:number].view(shape)[:, rows] >= dropped - 2**15
    return keep.to(dtype).mul_(2**16 / (2**16 - dropped))


def _without_some_text(features: Tensor, no_text: Tensor, dropped: Tensor | None, *, in_features: int) -> Tensor:
    """Features with the learned vector in place of dropped texts, or of all where there are image features only."""
    if features.shape[1] < in_features:
        return torch.cat([features, no_text.expand(len(features), -1)], dim=1)
    if dropped is None:
        return features
    image, text = features.split([in_features - len(no_text), len(no_text)], dim=1)
    return torch.cat([image, torch.where(dropped, no_text, text)], dim=1)


class GlobalBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the global batch of a process group, to which ranks may contribute any number of rows.

    Torch's SyncBatchNorm does not run on CPUs.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.group: dist.ProcessGroup | None = None
        self.track = True

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C)`` to ``(N, C)``."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        if not self.training:
            return functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if self.group is None:
            mean, var = (self.running_mean, self.running_var) if self.track else (None, None)
            return functional.batch_norm(input, mean, var, self.weight, self.bias, True, self.momentum, self.eps)
        return self._over_ranks(input, self.group)

    @torch.compiler.disable
    def _over_ranks(self, input: Tensor, group: dist.ProcessGroup) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        mean, var, count = global_moments(input.detach(), group)
        if self.track:
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        return _GlobalNorm.apply(input, self.weight, self.bias, mean, var, count, self.eps, group)


def global_moments(values: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of each column over the rows of all ranks, and the number of rows.

    One exchange of each rank's rows, mean and sum of centred squares, put together without a difference of large numbers
    (Chan, Golub & LeVeque, 1983).
    """
    rows = len(values)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    var, mean = torch.var_mean(values, 0, correction=0) if rows else (values.new_zeros(values.shape[1]),) * 2
    moments = torch.cat([values.new_full((1,), rows), mean, var])
    counts, means, variances = all_gathered(moments, group).split([1, len(mean), len(mean)], dim=1)
    count = counts.sum()
    weights = counts / count
    total = (weights * means).sum(0)
    return total, (weights * (variances + (means - total).square())).sum(0), count


class _GlobalNorm(torch.autograd.Function):
    """Normalisation by given moments that are functions of the input of all ranks: as torch's SyncBatchNorm, on any device."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
        group: dist.ProcessGroup,
    ) -> Tensor:
        ctx.save_for_backward(input, weight, mean, var, count)
        ctx.eps, ctx.group = eps, group
        return functional.batch_norm(input, mean, var, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        first_order_only("BatchNorm over ranks")
        input, weight, mean, var, count = ctx.saved_tensors
        # under autocast both come in bfloat16, in which differences to the mean would lose their digits
        values, grad = input.to(mean.dtype), grads[0].to(mean.dtype)
        inverse = torch.rsqrt(var + ctx.eps)
        sum_grad = grad.sum(0)
        sum_product = ((values - mean) * grad).sum(0) * inverse
        grad_weight, grad_bias = sum_product, sum_grad  # of the own rows: the caller sums parameters over ranks
        sums = torch.cat([sum_grad, sum_product])
        dist.all_reduce(sums, group=ctx.group)
        sum_grad, sum_product = (sums / count).chunk(2)
        # weight * inverse * (grad - mean grad - normalised * mean of grad * normalised), as one affine map of grad and input
        scale = weight * inverse
        slope = -scale * sum_product * inverse
        offset = -scale * sum_grad - slope * mean
        grad_input = torch.addcmul(torch.addcmul(offset, grad, scale), values, slope).to(input.dtype)
        return grad_input, grad_weight, grad_bias, None, None, None, None, None
