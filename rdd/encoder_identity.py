"""Which encoder features come from; read by processes that hold no encoder, so without torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What features depend on; two encoders with equal identity give equal features up to rounding."""

    model: str
    """open_clip's model name."""
    pretrained: str
    """Tag, file name or 'random'."""
    weights_sha256: str
    """Of the file of weights; of the tensors for 'random'."""
    embed_dim: int
    """Width D of a feature vector."""
    quick_gelu: bool
    """Whether the model runs with QuickGELU."""
    normalized: bool
    """Whether feature vectors have length 1."""
    has_text: bool
    """Whether the weights have a text tower."""
    preprocessing: dict[str, Any]
    """open_clip's preprocessing config."""


_DECISIVE = ("model", "weights_sha256", "embed_dim", "quick_gelu", "normalized", "preprocessing", "precision")


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What makes two encoders give other features, by name, of one and of the other; what their weights are called does not.

    Args:
        one: fields of an :class:`EncoderIdentity`, and ``precision`` where it is to be compared.
        other: likewise.
    """
    ours, theirs = (json.loads(json.dumps(dict(identity))) for identity in (one, other))
    return {name: (ours.get(name), theirs.get(name)) for name in _DECISIVE if ours.get(name) != theirs.get(name)}
