"""Settings of the robustness of a detector to degraded copies."""

from dataclasses import dataclass, field

from rdd.config.checks import check
from rdd.config.degrade import degradations


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """A detector on degraded copies of a set of records."""

    output: str = ""
    """Directory to write: features/<copy>/, robustness.json, robustness.md, robustness.png."""
    clean: str = ""
    """Finished features of the same records, not degraded; empty to embed them as well."""
    curves: dict[str, list[str]] = field(default_factory=dict)
    """By name of a curve its copies, from the mildest to the strongest; each is one or more transforms as embed.degrade has
    them, with ', ' between: 'jpeg 90, jpeg 50'."""

    def __post_init__(self) -> None:
        for name, copies in self.curves.items():
            plain = name.replace("_", "").replace("-", "").isalnum()
            check(plain, "robustness.curves", "be named by letters, digits, - and _", repr(name))
            check(bool(copies), "robustness.curves", f"hold a copy under {name}", copies)
            for copy in copies:
                degradations(transforms_of(copy), "robustness.curves")


def transforms_of(copy: str) -> list[str]:
    """The transforms of a copy, as ``embed.degrade`` has them.

    Example:
        >>> transforms_of("jpeg 90, jpeg 50")
        ['jpeg 90', 'jpeg 50']
    """
    return copy.split(", ")
