"""Names of features: of an image ``projected`` and ``block_<k>``, of a prompt ``text_original`` and ``text_positive``.

Of a degraded copy of an image, its view n, they end in ``_view_<n>``.
"""

import re

PROJECTED = "projected"
"""CLIP's own output for an image."""

TEXT_ORIGINAL, TEXT_POSITIVE = TEXTS = ("text_original", "text_positive")
"""CLIP's output for the two prompts of a record."""

IMAGE_NAMES = f"{PROJECTED} or block_<k>, k counted from 1"
"""What the features of an image are called, in words."""

_BLOCK = re.compile(r"block_([1-9][0-9]{0,3})")
_VIEW = re.compile(r"(.+)_view_([1-9][0-9]?)")


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
    """Whether a name is that of a feature of an image, and not of a view of it."""
    return name == PROJECTED or block_of(name) is not None


def view_name(name: str, view: int) -> str:
    """Name of a feature, or of anything else of an image, as it is for a view of it.

    Args:
        name: for the image itself.
        view: counted from 1; 0 for the image itself.

    Example:
        >>> view_name("block_9", 2), view_name("block_9", 0)
        ('block_9_view_2', 'block_9')
    """
    return f"{name}_view_{view}" if view else name


def split_view(name: str) -> tuple[str, int]:
    """The name of a feature as it is for the image itself, and the view that it is of, 0 for the image itself.

    Example:
        >>> split_view("block_9_view_2"), split_view("block_9")
        (('block_9', 2), ('block_9', 0))
    """
    match = _VIEW.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 0)
