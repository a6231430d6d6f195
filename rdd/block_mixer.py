"""Tokens of several blocks as one vector: each projected by a shared layer, then weighed against the others."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class BlockMixer(nn.Module):
    """A weighted mean of the class tokens of several blocks, in a narrower space.

    Each token is layer-normed, since those of later blocks are longer, and projected by a linear layer that all blocks share,
    with ReLU. Of each of the resulting columns a softmax over blocks says how much every block counts.

    Args:
        blocks: K, how many tokens there are.
        width: of each token.
        projection: columns of the result.

    Reference:
        Koutlis & Papadopoulos, Leveraging representations from intermediate encoder-blocks for synthetic image detection
        (RINE), ECCV 2024.
    """

    def __init__(self, blocks: int, width: int, *, projection: int) -> None:
        super().__init__()
        self.blocks, self.width = blocks, width
        self.shared = nn.Linear(width, projection)
        nn.init.kaiming_uniform_(self.shared.weight, nonlinearity="relu")
        nn.init.zeros_(self.shared.bias)
        self.importance = nn.Parameter(torch.zeros(blocks, projection))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(N, K * width)``, the tokens of an image end to end, to ``(N, projection)``."""
        separate = functional.layer_norm(tokens.unflatten(1, (self.blocks, self.width)), (self.width,))
        return (functional.relu(self.shared(separate)) * self.importance.softmax(0)).sum(1)


def check_blocks(widths: Sequence[int]) -> None:
    """Refuse inputs that a head of kind ``blocks`` can not weigh against each other.

    Args:
        widths: of each input of the image.

    Raises:
        ValueError: there are less than two, or they differ in width.
    """
    if len(widths) < 2 or len(set(widths)) > 1:
        raise ValueError(
            "features.inputs must be at least two of one width when model.kind is blocks, such as block_8 and block_9, "
            f"got the widths {list(widths)}; set model.kind to mlp for any others"
        )
