"""The losses against the official search and against a plain sort."""

import subprocess
import sys

import official
import torch
from measure import Figure, times_as_fast
from torch import Tensor

from rdd.losses import cvar_loss, pairwise_auc_loss

_PEAK = """
import torch
from rdd.losses import pairwise_auc_loss
torch.manual_seed(0)
peak = lambda: int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
work = lambda n: pairwise_auc_loss(
    torch.randn(n, dtype=torch.float64, requires_grad=True), (torch.arange(n) % 5 > 0).double(), eta=0.6, p=2
).backward()
work(1000)
before = peak()
work({number})
print(peak() - before)
"""


def loss_figures(number: int = 1_000_000) -> list[Figure]:
    """Speed of both losses, and the peak memory of the one over pairs."""
    torch.manual_seed(0)
    losses = torch.nn.functional.softplus(torch.randn(2048))
    searching = times_as_fast(
        lambda: [cvar_loss(losses, alpha=0.8) for _ in range(50)],
        lambda: [official.cvar(losses, 0.8) for _ in range(50)],
    )
    logits = torch.randn(number, dtype=torch.float64)
    labels = (torch.arange(number) % 5 > 0).double()

    def auc() -> None:
        own: Tensor = logits.clone().requires_grad_()
        pairwise_auc_loss(own, labels, eta=0.6, p=2).backward()

    sorting = times_as_fast(lambda: torch.sort(logits), auc)
    peak = subprocess.run([sys.executable, "-c", _PEAK.format(number=number)], check=True, capture_output=True, text=True)
    return [
        Figure("cvar_loss over the official search, n = 2,048", searching, at_least=15),
        Figure("pairwise_auc_loss, p = 2, n = 1,000,000: time over torch.sort", sorting, at_most=4),
        Figure("the same, value and gradient: peak memory", int(peak.stdout) * 1024 / 1e6, at_most=200, unit="MB"),
    ]
