"""A protocol: its rounds, each a training without some generators or a test on another set, and what they come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from rdd.config import Config
from rdd.evaluation.bootstrap import RecordWeightedAuc, bound_without_errors, interval, resampled_counts
from rdd.evaluation.groups import Known
from rdd.evaluation.scores import Scored
from rdd.evaluation.simultaneous import simultaneous


@dataclass(frozen=True)
class Round:
    """One training run of a protocol, and the generators of its test that it has not seen."""

    name: str
    leave_out: tuple[str, ...]
    """Generators that are neither trained nor selected on."""
    tested: tuple[str, ...]
    """Of these, those that the round is about."""


def rounds_of(config: Config, generators: Sequence[str]) -> list[Round]:
    """The rounds of a protocol over the generators of a feature set; none for kind sets.

    Raises:
        ValueError: a round would have nothing to train on, or a generator has no date.
    """
    names, options = sorted(generators), config.protocol
    if options.kind == "sets":
        return []
    if options.kind == "dates":
        return _by_date(names, options.released)
    known = Known(config.evaluate.families if options.kind == "families" else {}, None)
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(known.family(name), []).append(name)
    if len(members) < 2:
        raise ValueError(f"protocol.kind {options.kind} needs two of them, one to train on, got {', '.join(members)}")
    return [Round(name, tuple(of), tuple(of)) for name, of in members.items()]


def _by_date(names: Sequence[str], released: Mapping[str, str]) -> list[Round]:
    date_of = {name: next((date for of, date in released.items() if fnmatchcase(name, of)), "") for name in names}
    if undated := [name for name, date in date_of.items() if not date]:
        raise ValueError(f"protocol.released must name a date for each generator, got none for {', '.join(undated)}")
    dates = sorted(set(date_of.values()))
    if len(dates) < 2:
        raise ValueError(f"protocol.released must name two dates, one to train on, got {', '.join(dates)}")
    return [
        Round(
            f"from {date}",
            tuple(name for name in names if date_of[name] >= date),
            tuple(name for name in names if date_of[name] == date),
        )
        for date in dates[1:]
    ]


def config_of(config: Config, one: Round, output: str) -> Config:
    """The training run of a round."""
    features = replace(config.features, leave_out=[*config.features.leave_out, *one.leave_out])
    return replace(config, features=features, train=replace(config.train, output=output))


@dataclass(frozen=True)
class Outcome:
    """What a round came to, as far as its AUC goes."""

    auroc: float
    drawn: np.ndarray
    """``(resamples,)`` AUCs of resampled records."""
    lowest: float
    """Lower bound of the AUC where no pair is mis-ranked."""
    images: int
    """Generated ones."""

    @property
    def interval(self) -> list[float] | None:
        """95 % interval of the AUC, on its own."""
        return interval(self.drawn) if self.auroc < 1 else [self.lowest, 1.0]


def outcome_of(scored: Scored, *, resamples: int, seed: int) -> Outcome:
    """AUC of a round and its draws.

    Args:
        scored: the logits of its test. Rounds that were tested on the same records have their draws in common.
        resamples: of records.
        seed: of the resamples.
    """
    aucs = RecordWeightedAuc(scored.logits, scored.labels, scored.records)
    draws = resampled_counts(aucs.records, resamples=resamples, seed=seed)
    return Outcome(
        auroc=float(aucs(np.ones(aucs.records, dtype=np.int32))[0]),
        drawn=np.array([aucs(counts)[0] for counts in draws]),
        lowest=bound_without_errors(scored.records, scored.labels),
        images=int(scored.labels.sum()),
    )


def summarised(tests: Mapping[str, Outcome]) -> dict[str, Any]:
    """What the rounds come to: each AUC, their mean, and the worst.

    Args:
        tests: by round, what it came to, from as many resamples of the same seed.

    Returns:
        ``rounds``, by name ``auroc`` with its interval, on its own and together with the others; ``mean_auroc`` and its
        interval; ``worst``, ``worst_auroc`` and the interval of the smallest true AUC, whichever round has it. Logits of two
        rounds are never ranked against each other: they are of two detectors.
    """
    values = [one.auroc for one in tests.values()]
    lowest = np.array([one.lowest for one in tests.values()])
    both = simultaneous(np.array(values), np.stack([one.drawn for one in tests.values()], axis=1), lowest)
    rounds = {
        name: {
            "auroc": one.auroc,
            "auroc_interval": one.interval,
            "auroc_simultaneous_interval": together,
            "images": one.images,
        }
        for (name, one), together in zip(tests.items(), both.intervals, strict=True)
    }
    worst = list(tests)[int(np.argmin(values))]
    return {
        "rounds": rounds,
        "mean_auroc": float(np.mean(values)),
        "mean_auroc_interval": both.mean,
        "worst": worst,
        "worst_auroc": min(values),
        "worst_auroc_interval": both.worst,
    }


def images_of_round(scored: Scored, one: Round) -> Scored:
    """The real images of a test part, and those of the generators that a round is about."""
    codes = [code for code, name in enumerate(scored.generators) if name in one.tested]
    keep = (scored.labels == 0) | np.isin(scored.generator_of, codes)
    return replace(
        scored,
        logits=scored.logits[keep],
        labels=scored.labels[keep],
        generator_of=scored.generator_of[keep],
        records=scored.records[keep],
    )


def as_markdown(report: Mapping[str, Any]) -> str:
    """The rounds as a table."""
    lines = ["| tested on | generated images | AUC | 95 % | all rounds together 95 % |", "| --- | --- | --- | --- | --- |"]
    for name, row in report["rounds"].items():
        ends = [_ends(row[key]) for key in ("auroc_interval", "auroc_simultaneous_interval")]
        lines.append(f"| {name.replace('|', '/')} | {row['images']} | {row['auroc']:.4f} | {' | '.join(ends)} |")
    lines.append(f"| mean | | {report['mean_auroc']:.4f} | {_ends(report['mean_auroc_interval'])} | |")
    worst = report["worst"].replace("|", "/")
    lines.append(f"| worst: {worst} | | {report['worst_auroc']:.4f} | | {_ends(report['worst_auroc_interval'])} |")
    return "\n".join(lines) + "\n"


def interval_text(value: float, ends: Sequence[float] | None) -> str:
    """An AUC with its interval, as short as a narrow column needs.

    Example:
        >>> interval_text(0.98765, [0.98, 0.991])
        '0.988 [0.980, 0.991]'
    """
    return f"{value:.3f}" + ("" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]")


def _ends(ends: Sequence[float] | None) -> str:
    return "unknown" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}"
