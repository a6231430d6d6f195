"""How a detector does on degraded copies of a test set: each copy beside the clean images, paired by record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rdd.evaluation.bootstrap import bound_without_errors, difference_without_errors, interval
from rdd.evaluation.paired import Difference, difference, holm, joint_bootstrap
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc, rate_above

CLEAN = "clean"


@dataclass(frozen=True)
class CopyRow:
    """A detector on one copy of a test set."""

    copy: str
    """Its transforms, or ``clean``."""
    auroc: float
    auroc_interval: list[float] | None
    """95 %, by records; where no pair is mis-ranked, a one-sided bound and 1."""
    worst_generator: str
    worst_generator_auroc: float
    true_positive_rate: float
    """At the detector's threshold, which was chosen on clean images."""
    false_positive_rate: float
    """The same of the real images."""
    difference: Difference | None
    """Its AUC less that of the clean images; None for these."""
    p_adjusted: float | None
    """P-value of the difference, adjusted for the number of copies by Holm's method."""

    def to_json(self) -> dict[str, Any]:
        """As it is written down."""
        return asdict(self)


def copy_rows(
    clean: Scored, copies: Mapping[str, Scored], *, threshold: float, resamples: int, seed: int
) -> dict[str, CopyRow]:
    """The clean set and each of its copies.

    Args:
        clean: logits of the clean images; both classes must be present.
        copies: by name, logits of the same images in the same order.
        threshold: logit at and above which an image is called generated.
        resamples: bootstrap resamples of records, the same for all copies.
        seed: of the resamples.

    Returns:
        By name of the copy, ``clean`` first.
    """
    scored = {CLEAN: clean, **copies}
    drawn = joint_bootstrap({name: [one] for name, one in scored.items()}, resamples=resamples, seed=seed)
    differences = {name: _difference(one, clean, drawn[name], drawn[CLEAN]) for name, one in copies.items()}
    adjusted = holm({name: value.p_value for name, value in differences.items()})
    return {
        name: _row(name, one, threshold, drawn[name], differences.get(name), adjusted.get(name)) for name, one in scored.items()
    }


def _difference(copy: Scored, clean: Scored, drawn_copy: np.ndarray, drawn_clean: np.ndarray) -> Difference:
    less = difference([copy], [clean], drawn_copy, drawn_clean)
    aucs = auroc(copy.logits, copy.labels), auroc(clean.logits, clean.labels)
    least = bound_without_errors(clean.records, clean.labels)
    return replace(less, interval=difference_without_errors(less.interval, aucs, least))


def _row(
    name: str, scored: Scored, threshold: float, drawn: np.ndarray, less: Difference | None, p_adjusted: float | None
) -> CopyRow:
    real, area = scored.labels == 0, auroc(scored.logits, scored.labels)
    by_generator = {
        generator: auroc(scored.logits[real | images], scored.labels[real | images])
        for generator, images in scored.generated_by().items()
    }
    worst = min(by_generator, key=by_generator.__getitem__)
    exact = area == 1.0
    return CopyRow(
        copy=name,
        auroc=area,
        auroc_interval=[bound_without_errors(scored.records, scored.labels), 1.0] if exact else interval(drawn),
        worst_generator=worst,
        worst_generator_auroc=by_generator[worst],
        true_positive_rate=rate_above(scored.logits[~real], threshold),
        false_positive_rate=rate_above(scored.logits[real], threshold),
        difference=less,
        p_adjusted=p_adjusted,
    )


def as_markdown(curves: Mapping[str, list[str]], rows: Mapping[str, CopyRow], note: str) -> str:
    """The curves as one table, from the clean images to the strongest copy of each.

    Args:
        curves: by name, the copies of a curve.
        rows: of :func:`copy_rows`.
        note: on which images, below the table.
    """
    lines = [
        "| curve | copy | AUC | 95 % interval | AUC less clean | 95 % interval | p (Holm) | worst generator "
        "| generated found | real mistaken |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        _line("", rows[CLEAN]),
    ]
    lines += [_line(name, rows[copy]) for name, copies in curves.items() for copy in copies]
    return "\n".join([*lines, "", note, ""])


def _line(curve: str, row: CopyRow) -> str:
    less = row.difference
    cells = [
        curve,
        row.copy,
        f"{row.auroc:.4f}",
        _span(row.auroc_interval),
        "" if less is None else f"{less.value:+.4f}",
        "" if less is None else _span(less.interval, sign="+"),
        "" if row.p_adjusted is None else f"{row.p_adjusted:.2g}",
        f"{row.worst_generator} {row.worst_generator_auroc:.4f}".replace("|", r"\|"),
        f"{row.true_positive_rate:.1%}",
        f"{row.false_positive_rate:.1%}",
    ]
    return f"| {' | '.join(cells)} |"


def _span(bounds: list[float] | None, sign: str = "") -> str:
    return "unknown" if bounds is None else f"{bounds[0]:{sign}.4f} to {bounds[1]:{sign}.4f}"
