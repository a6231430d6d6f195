"""Numbers as the page writes them: as many digits as they carry, and words where there is none."""

import math
from collections.abc import Sequence
from typing import Any

UNKNOWN = "unknown"


def auc_text(value: float | None) -> str:
    """An AUC or another share near 1, with enough decimals that it is not rounded to 1.

    Example:
        >>> auc_text(0.91234), auc_text(0.999998), auc_text(1.0)
        ('0.9123', '0.999998', '1.0000')
    """
    return UNKNOWN if value is None else f"{value:.{_decimals(value)}f}"


def span_text(bounds: Sequence[float] | None) -> str:
    """The two ends of an interval.

    Example:
        >>> span_text([0.9, 0.95])
        '0.9000 to 0.9500'
    """
    if bounds is not None and bounds[0] == bounds[1] == 1:
        return "no pair is mis-ranked"  # where a bootstrap has nothing to say of how much below 1 the truth may be
    return UNKNOWN if bounds is None else f"{auc_text(bounds[0])} to {auc_text(bounds[1])}"


def percent_text(share: float | None) -> str:
    """A share of images in per cent, with enough decimals that it is not rounded to all of them.

    Example:
        >>> percent_text(0.0513), percent_text(1.0), percent_text(0.99994)
        ('5.1 %', '100.0 %', '99.994 %')
    """
    if share is None:
        return UNKNOWN
    decimals = 1 if share < 0.9995 or share >= 1 else _decimals(share) - 2
    return f"{100 * share:.{decimals}f} %"


def percents_text(bounds: Sequence[float] | None) -> str:
    """The two ends of an interval of a share, in per cent."""
    return UNKNOWN if bounds is None else f"{percent_text(bounds[0])} to {percent_text(bounds[1])}"


def signed_text(value: float | None) -> str:
    """A difference with its sign."""
    return "" if value is None else f"{value:+.4f}"


def signed_span_text(bounds: Sequence[float] | None) -> str:
    """The two ends of an interval of a difference."""
    return UNKNOWN if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


def plain_number(value: Any) -> str:
    """Any number, yes, no or text of a report."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _decimals(value: float) -> int:
    if value >= 1 or value < 0.999:
        return 4
    return max(4, math.ceil(-math.log10(1 - value)))
