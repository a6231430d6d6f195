"""The MLP head: features to one raw logit an image."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from rdd.collectives import sum_over_ranks

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.01)}


class DetectorHead(nn.Module):
    """Hidden layers of Linear -> BatchNorm -> activation -> Dropout, then Linear to one logit.

    With the paper's numbers (1536 wide, three layers, 1536 features in) it has 7,093,249 parameters.

    Args:
        in_features: columns of the features.
        hidden: width of each hidden layer.
        layers: hidden layers.
        dropout: probability in [0, 1).
        activation: ``relu`` as in the paper, ``leaky_relu`` (slope 0.01) as in the official code.
    """

    def __init__(
        self,
        in_features: int,
        *,
        hidden: int = 1536,
        layers: int = 3,
        dropout: float = 0.335,
        activation: Literal["relu", "leaky_relu"] = "relu",
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        width = in_features
        for _ in range(layers):
            linear = nn.Linear(width, hidden)
            nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            blocks += [linear, GlobalBatchNorm(hidden), _ACTIVATIONS[activation](), nn.Dropout(dropout)]
            width = hidden
        self.hidden = nn.Sequential(*blocks)
        self.out = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Raw logits ``(N,)`` of features ``(N, in_features)``; positive means generated."""
        return self.out(self.hidden(features)).squeeze(-1)

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


class GlobalBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the global batch of a process group, ranks of any size; torch's own refuses CPUs."""

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
        rows = input.new_tensor([float(len(input))])
        sums = sum_over_ranks(torch.cat([input.sum(0), rows]), self.group)
        count = sums[-1].detach()
        centred = input - sums[:-1] / count
        var = sum_over_ranks(centred.square().sum(0), self.group) / count
        if self.track:
            with torch.no_grad():
                self.running_mean.lerp_(sums[:-1] / count, self.momentum)
                self.running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return centred * torch.rsqrt(var + self.eps) * self.weight + self.bias
