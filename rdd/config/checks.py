"""Checks that every section shares."""

SEEDS = 2**63
DAY_S = 86_400


def check(holds: bool, name: str, allowed: str, given: object) -> None:
    """Refuse a value of a leaf.

    Args:
        holds: whether it is allowed, in positive form, so that NaN fails it.
        name: dotted path of the leaf.
        allowed: the rest of "<name> must ...".
        given: the value.

    Raises:
        ValueError: it is not allowed.
    """
    if not holds:
        raise ValueError(f"{name} must {allowed}, got {given}")
