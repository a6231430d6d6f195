"""Checks that every section shares."""

SEEDS = 2**63
DAY_S = 86_400
MAX_THREADS = 1024
"""Of a process; torch crashes at some more."""
MAX_RESAMPLES = 1_000_000


def check(holds: bool, name: str, allowed: str, value: object) -> None:
    """Refuse a value of a leaf.

    Args:
        holds: whether it is allowed, in positive form, so that NaN fails it.
        name: dotted path of the leaf.
        allowed: the rest of "<name> must ...".
        value: what it is.

    Raises:
        ValueError: it is not allowed.
    """
    if not holds:
        raise ValueError(f"{name} must {allowed}, got {value}")
