"""Names of features: of an image ``projected`` and ``block_<k>``, of a prompt ``text_original`` and ``text_positive``."""

import re

PROJECTED = "projected"
"""CLIP's own output for an image."""

TEXT_ORIGINAL, TEXT_POSITIVE = TEXTS = ("text_original", "text_positive")
"""CLIP's output for the two prompts of a record."""

IMAGE_NAMES = f"{PROJECTED} or block_<k>, k counted from 1"
"""What the features of an image are called, in words."""

_BLOCK = re.compile(r"block_([1-9][0-9]{0,3})")


def block_name(block: int) -> str:
    """Name of the class token after a block, counted from 1."""
    return f"block_{block}"


def block_of(name: str) -> int | None:
    """The block whose class token a name stands for, counted from 1; None for any other name.

    Example:
        >>> block_of("block_9"), block_of("projected"), block_of("block_09")
        (9, None, None)
    """
    match = _BLOCK.fullmatch(name)
    return int(match[1]) if match else None


def is_image_feature(name: str) -> bool:
    """Whether a name is that of a feature of an image."""
    return name == PROJECTED or block_of(name) is not None
