"""A trained head with as few steps as it needs: what standardises its inputs and its BatchNorms go into its linear layers.

In evaluation mode both are affine maps of each column, so a linear layer before or behind them can do their work. The algebra
is done in float64 and rounded once.
"""

import copy
from typing import Literal, cast

import torch
from torch import Tensor, nn

from rdd.model import DetectorHead, GlobalBatchNorm

Standardisation = Literal["none", "folded", "kept"]
"""Of the inputs: there is none; it is part of the first layer; or it is a step of its own, since a head of kind ``blocks``
layer-norms each standardised token before the first linear layer, and layer norm is not linear."""

_Layer = tuple[Tensor, Tensor]
"""Weight ``(out, in)`` and bias ``(out,)``, float64."""


class FoldedHead(nn.Module):
    """What a :class:`~rdd.model.DetectorHead` computes in evaluation mode, for export.

    Args:
        head: the trained head, which is left as it is.
        image_width: columns of the features of an image; what follows is text.
        without_text: take images alone: the vector that the head has learned with ``text_dropout`` stands in for the text.

    Raises:
        ValueError: ``without_text`` is asked of a head that has learned no such vector.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, head: DetectorHead, image_width: int, *, without_text: bool = False) -> None:
        super().__init__()
        if without_text and head.no_text is None:
            raise ValueError("a head must be trained with model.text_dropout to do without text, and this one was not")
        self.text_width = 0 if without_text else head.in_features - image_width
        mixer = head.mixer
        self.standardisation: Standardisation = "none"
        if head.standardize:
            self.standardisation = "folded" if mixer is None else "kept"
        if self.standardisation == "kept":
            self.register_buffer("mean", head.mean[:image_width].clone())
            self.register_buffer("deviation", head.deviation[:image_width].clone())
        self.mixer = copy.deepcopy(mixer)
        layers = [_without_batch_norm(block) for block in head.hidden] + [_exact(head.out)]
        image_columns = image_width if mixer is None else mixer.shared.out_features
        layers[0] = _on_raw_inputs(layers[0], head, image_width, image_columns, without_text=without_text)
        steps: list[nn.Module] = [_linear(layers[0])]
        for block, layer in zip(head.hidden, layers[1:], strict=True):
            steps += [copy.deepcopy(cast(nn.Sequential, block)[2]), _linear(layer)]
        self.layers = nn.Sequential(*steps)
        self.eval().requires_grad_(False)

    def forward(self, features: Tensor, text_features: Tensor | None = None) -> Tensor:
        """Raw logits ``(N,)`` float32 of features ``(N, image_width)`` and, where the head sees text, ``(N, text_width)``."""
        values = features
        if self.standardisation == "kept":
            values = (values - self.mean) / self.deviation
        if self.mixer is not None:
            values = self.mixer(values)
        if text_features is not None:
            values = torch.cat([values, text_features], dim=1)
        return self.layers(values).squeeze(-1)


def _exact(linear: nn.Linear) -> _Layer:
    return linear.weight.detach().double(), linear.bias.detach().double()


def _without_batch_norm(block: nn.Module) -> _Layer:
    """The linear layer of a hidden block, followed by its BatchNorm."""
    linear, norm = cast(nn.Linear, cast(nn.Sequential, block)[0]), cast(GlobalBatchNorm, cast(nn.Sequential, block)[1])
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = _exact(linear)
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale[:, None] * weight, scale * (bias - norm.running_mean.double()) + norm.bias.detach().double()


def _on_raw_inputs(layer: _Layer, head: DetectorHead, image_width: int, image_columns: int, *, without_text: bool) -> _Layer:
    """The first layer, on inputs as they come: not standardised, and without text where that is asked for.

    Args:
        layer: on standardised inputs.
        head: whose layer it is.
        image_width: columns of the features of an image.
        image_columns: columns of the layer that belong to the image.
        without_text: leave the columns of the text away.
    """
    weight, bias = layer
    of_image, of_text = weight[:, :image_columns], weight[:, image_columns:]
    if without_text:
        assert head.no_text is not None
        bias, of_text = bias + of_text @ head.no_text.detach().double(), of_text[:, :0]
    if head.standardize:
        mean, deviation = head.mean.double(), head.deviation.double()
        if head.mixer is None:
            of_image = of_image / deviation[:image_width]
            bias = bias - of_image @ mean[:image_width]
        if of_text.shape[1]:
            of_text = of_text / deviation[image_width:]
            bias = bias - of_text @ mean[image_width:]
    return torch.cat([of_image, of_text], dim=1), bias


def _linear(layer: _Layer) -> nn.Linear:
    weight, bias = layer
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear
