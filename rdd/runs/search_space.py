"""The space of a sweep: what each dotted path of the config may be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rdd.config import Config
from rdd.config.parse import leaf_of, override

Kind = Literal["uniform", "loguniform", "choice", "grid"]
SECTIONS = ("model", "loss", "sam", "optimizer", "train", "features")
"""What a trial may draw, but for what would make trials incomparable."""
_FIXED = (
    "train.epochs",
    "train.output",
    "train.seed",
    "train.cross_validate",
    "features.path",
    "features.held",
)
_SPLIT = ("features.split", "features.num_folds", "features.fold", "features.validation_share", "features.test_share")

KINDS: tuple[Kind, ...] = ("uniform", "loguniform", "choice", "grid")


@dataclass(frozen=True)
class Domain:
    """What one leaf may be."""

    kind: Kind
    values: tuple[Any, ...]
    """Lowest and highest value of an interval, or all the values there are."""


def read_space(config: Config) -> dict[str, Domain]:
    """The domains of ``tune.space``, each end and each value checked as a value of the config is.

    Raises:
        ValueError: no path, an unknown one, an unknown kind, a value out of range, or a kind that the search can not use.
    """
    if not config.tune.space:
        raise ValueError("tune.space must name at least one path, got none; for example {loss.alpha: {uniform: [0.1, 1.0]}}")
    space = {path: _domain(path, described) for path, described in config.tune.space.items()}
    for path, domain in space.items():
        section = path.split(".")[0]
        override(config, {path: domain.values[0]})  # refuses an unknown path, naming the nearest
        if section not in SECTIONS or path in _FIXED or path.startswith(_SPLIT):
            raise ValueError(
                f"tune.space may hold paths of {', '.join(SECTIONS)} but for the split, epochs, seed and output, got {path}"
            )
        for value in domain.values:
            checked = leaf_of(override(config, {path: value}), path)
            if domain.kind in ("uniform", "loguniform") and not isinstance(checked, float):
                raise ValueError(f"tune.space of {path} must be choice or grid, since it is no real number, got {domain.kind}")
    kinds = {domain.kind for domain in space.values()}
    if config.tune.search == "grid" and kinds - {"grid", "choice"}:
        raise ValueError("tune.space must hold only choice and grid for tune.search grid, got an interval; use search random")
    if config.tune.search == "optuna" and "grid" in kinds:
        raise ValueError("tune.space must hold no grid for tune.search optuna, got one; use choice, or search grid")
    return space


def trials_of(config: Config, space: Mapping[str, Domain]) -> int:
    """How many trials a sweep has."""
    grids = math.prod(len(domain.values) for domain in space.values() if domain.kind == "grid")
    if config.tune.search == "grid":
        return math.prod(len(domain.values) for domain in space.values())
    return config.tune.num_trials * grids


def _domain(path: str, described: Any) -> Domain:
    if not isinstance(described, Mapping) or len(described) != 1 or next(iter(described)) not in KINDS:
        raise ValueError(f"tune.space of {path} must be one of {', '.join(KINDS)} with a list of values, got {described!r}")
    ((kind, values),) = described.items()
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"tune.space of {path} must give {kind} a list of values, got {values!r}")
    if kind in ("uniform", "loguniform"):
        numbers = len(values) == 2 and all(isinstance(value, int | float) for value in values)
        lowest = 0 if kind == "loguniform" else -math.inf
        if not numbers or not lowest < values[0] < values[1]:
            raise ValueError(f"tune.space of {path} must give {kind} [low, high] with {lowest:g} < low < high, got {values!r}")
    return Domain(kind, tuple(values))
