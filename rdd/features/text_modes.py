"""Which prompt goes with an image.

A new text mode is a name here and in ``features.text_mode``, and its row of prompts in :func:`prompt_rows`.
"""

from typing import Literal

import torch
from torch import Tensor

TextMode = Literal["shared", "official", "none"]
"""shared: the original prompt for every image of a record; official: the positive prompt for generated images, which leaks the
label; none: image features alone."""


def text_mode_for(wanted: str, *, has_text: bool) -> TextMode:
    """Resolve a wanted text mode, which may be ``auto``, for some features.

    Args:
        wanted: a text mode, or ``auto``: shared where there are prompts, none where there are not.
        has_text: whether the features hold prompts.

    Raises:
        ValueError: the wish needs prompts that are not there.

    Example:
        >>> text_mode_for("auto", has_text=False)
        'none'
    """
    if wanted == "auto":
        return "shared" if has_text else "none"
    if wanted != "none" and not has_text:
        raise ValueError(
            f"features.text_mode {wanted} needs prompts and the features hold none; embed with embed.text true, "
            "or set features.text_mode to auto or none"
        )
    assert wanted in ("shared", "official", "none"), wanted
    return wanted  # type: ignore[return-value]


def prompt_rows(text_mode: TextMode, records: Tensor, labels: Tensor, *, num_records: int) -> Tensor | None:
    """Row of the prompt of some images, among the original prompts of all records and then their positive ones.

    Args:
        text_mode: which.
        records: ``(N,)`` int64 record of each image.
        labels: ``(N,)``: 0 real, 1 generated.
        num_records: records in all.

    Returns:
        ``(N,)`` int64; None where images go without text.
    """
    if text_mode == "none":
        return None
    if text_mode == "official":
        return records + labels.to(torch.int64) * num_records
    return records
