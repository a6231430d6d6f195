"""What a run changes against the paper's method, ``ours``, on one line that MLflow's tables have room for."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from rdd.config import Config
from rdd.config.parse import override, settings_of

CHANGES = "changes"
"""Parameter of every run that is compared."""

OURS: Mapping[str, Any] = {"model.standardize": False}
"""What the paper's method, ``jobs/configs/ours.yaml``, has otherwise than the defaults."""

_METHOD = ("model", "loss", "sam", "optimizer")
SECTIONS = ("features", "train", *_METHOD)
"""Sections of the config whose settings are named."""
_OF_FEATURES = ("features.leave_out", "features.inputs", "features.text_mode")
_OF_TRAINING = ("train.epochs", "train.batch_size", "train.stratified", "train.precision")
_LONGEST = 250  # characters, what MLflow's servers have taken since its first releases
_LONGEST_LIST = 60


def changes(settings: Mapping[str, Any], job: Config, *, auto: str) -> str:
    """Settings of a run that are not those of ``ours``, such as ``gamma 0, sam off``; ``ours`` where none is.

    Args:
        settings: of the run, by dotted path.
        job: the config of the sweep or the ablation that the run belongs to, else the run's own. The method does not say how
            long a set is trained on, so epochs, batches and precision are named only where they differ from it.
        auto: the text mode that ``auto`` comes to on these features.

    Returns:
        At most 250 characters; what does not fit is counted. What the run has otherwise than its job comes first.

    Example:
        >>> changes({"loss.gamma": 0.0, "sam.enabled": False, "model.standardize": False}, Config(), auto="none")
        'gamma 0, sam off'
    """
    ours = _ours() | settings_of(job, ["train"])
    compared = [*_OF_FEATURES, *(path for path in ours if path.split(".")[0] in _METHOD), *_OF_TRAINING]
    own, shared = _resolved(settings, auto), _resolved(settings_of(job, SECTIONS), auto)
    ours["features.text_mode"] = auto
    differing = [path for path in compared if path in own and own[path] != ours[path]]
    differing.sort(key=lambda path: own[path] == shared[path])
    return _shortened([_named(path, own[path]) for path in differing]) or "ours"


def _resolved(settings: Mapping[str, Any], auto: str) -> dict[str, Any]:
    """The settings with the text mode that they come to."""
    return {path: auto if path == "features.text_mode" and value == "auto" else value for path, value in settings.items()}


@cache
def _ours() -> dict[str, Any]:
    return settings_of(override(Config(), OURS), [*_METHOD, "features"])


def _named(path: str, value: Any) -> str:
    section, leaf = path.split(".")
    name = section if leaf in ("enabled", "kind") else leaf
    return f"{name} {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        names = "+".join(map(str, value))
        return names if len(names) <= _LONGEST_LIST else f"{len(value)} names"
    return str(value)


def _shortened(named: list[str]) -> str:
    for left in range(len(named)):
        line = ", ".join(named[: len(named) - left]) + (f" and {left} more" if left else "")
        if len(line) <= _LONGEST:
            return line
    return f"{len(named)} settings" if named else ""
