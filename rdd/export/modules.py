"""The two things that are exported: the head, and pixels to logits."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rdd.clip import ClipEncoder
from rdd.clip_tower import ImageTower
from rdd.detector import Detector
from rdd.export.folding import FoldedHead
from rdd.feature_names import PROJECTED, block_of


def folded_head(detector: Detector, *, without_text: bool = False) -> FoldedHead:
    """The head of a detector, for export.

    Raises:
        ValueError: ``without_text`` is asked of a detector that needs text, or has none.
    """
    if without_text and (detector.text_mode == "none" or detector.needs_text):
        what = "looks at images alone" if detector.text_mode == "none" else "can not do without text"
        raise ValueError(
            f"export.without_text must be false of a detector that was not trained with model.text_dropout; this one {what}"
        )
    return FoldedHead(detector.head, sum(detector.inputs.values()), without_text=without_text)


class PixelsToLogits(nn.Module):
    """Scaling, the image tower up to the last block that the head looks at, and the head.

    Args:
        encoder: with the weights, in float32 on the CPU; left as it is.
        names: of the features that the head takes, in its order.
        head: for export.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: ClipEncoder, names: Sequence[str], head: FoldedHead) -> None:
        super().__init__()
        config = encoder.preprocessor.config
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name], dtype=torch.float32).view(1, 3, 1, 1))
        self.visual = _cut(encoder.visual, names)
        self.head = head
        self._names, self._tower = list(names), ImageTower(self.visual)
        self._normalize = encoder.identity.normalized
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, text_features: Tensor | None = None) -> Tensor:
        """Raw logits ``(N,)`` float32 of pixels ``(N, height, width, 3)`` uint8, rows from the top, red first."""
        inputs = (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - self.mean) / self.std
        by_name = self._tower(inputs, self._names)
        features = [by_name[name] for name in self._names]
        if self._normalize:
            features = [functional.normalize(values, dim=-1) for values in features]
        return self.head(torch.cat(features, dim=1), text_features)


def _cut(visual: Any, names: Sequence[str]) -> Any:
    """A copy of open_clip's image tower without what lies behind the last block that is asked for."""
    tower = copy.deepcopy(visual)
    blocks = [block for name in names if (block := block_of(name)) is not None]
    if PROJECTED not in names:
        tower.prune_intermediate_layers([block - 1 for block in blocks], prune_norm=True, prune_head=True)
    return tower
