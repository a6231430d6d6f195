"""The table of an ablation: each row's figures, and its difference to the row of the method with what is known of it."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from rdd.evaluation.bootstrap import bound_without_errors
from rdd.evaluation.paired import Difference, difference, holm, joint_bootstrap, spread_of
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc, misranked_pairs, true_positive_rate

PAPER_AUC = {"ours": 0.99999854}
"""arXiv 2404.12908 on D3; no other row's value is published there."""

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Row:
    """One row of the table, means over its seeds."""

    name: str
    seeds: int
    auroc: float
    auroc_std: float | None
    """Over seeds; None for one seed."""
    auroc_interval: list[float] | None
    """95 %, over seeds and records; where no seed mis-ranks a pair, a one-sided bound and 1."""
    one_sided: bool
    """Whether the interval is a bound, since no pair is mis-ranked."""
    misranked_pairs: float
    pairs: int
    average_precision: float
    tpr_at_1_percent_fpr: float | None
    worst_generator: str
    worst_generator_auroc: float
    difference: Difference | None
    """To the baseline; None for the baseline itself."""
    p_adjusted: float | None
    """Holm's, over the rows."""
    same_as: str | None
    """An earlier row that comes to the same settings on these features."""

    @property
    def distinguishable(self) -> bool | None:
        """Whether the difference is more than noise; None for the baseline, False for one seed, which can not tell."""
        return None if self.p_adjusted is None else self.p_adjusted < SIGNIFICANCE and self.seeds > 1


def ablation_rows(
    rows: Mapping[str, Sequence[Scored]], *, baseline: str, resamples: int, seed: int, same_as: Mapping[str, str]
) -> list[Row]:
    """The table.

    Args:
        rows: by name and seed, logits of the same test images.
        baseline: the row that the others are compared to.
        resamples: of the joint bootstrap over seeds and records.
        seed: of the bootstrap.
        same_as: rows that come to the settings of an earlier one, and that one.

    Returns:
        A row each, in the order given.
    """
    drawn = joint_bootstrap(dict(rows), resamples=resamples, seed=seed)
    differences = {
        name: difference(by_seed, rows[baseline], drawn[name], drawn[baseline])
        for name, by_seed in rows.items()
        if name != baseline and same_as.get(name) != baseline
    }
    adjusted = holm({name: found.p_value for name, found in differences.items() if name not in same_as})
    adjusted |= {name: adjusted[other] for name, other in same_as.items() if other in adjusted}
    return [
        _row(name, by_seed, drawn[name], differences.get(name), adjusted.get(name), same_as.get(name))
        for name, by_seed in rows.items()
    ]


def _row(
    name: str,
    by_seed: Sequence[Scored],
    drawn: np.ndarray,
    found: Difference | None,
    adjusted: float | None,
    same_as: str | None,
) -> Row:
    aucs = [auroc(scored.logits, scored.labels) for scored in by_seed]
    misranked = [misranked_pairs(scored.logits, scored.labels) for scored in by_seed]
    rates = [true_positive_rate(scored.logits, scored.labels, at=0.01) for scored in by_seed]
    worst, worst_auroc = _worst_generator(by_seed)
    bound = [bound_without_errors(by_seed[0].records, by_seed[0].labels), 1.0]
    return Row(
        name=name,
        seeds=len(by_seed),
        auroc=float(np.mean(aucs)),
        auroc_std=float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        auroc_interval=_within_one(spread_of(by_seed).interval(drawn)) if any(misranked) else bound,
        one_sided=not any(misranked),
        misranked_pairs=float(np.mean(misranked)),
        pairs=int((by_seed[0].labels == 0).sum()) * int((by_seed[0].labels == 1).sum()),
        average_precision=float(np.mean([average_precision_score(scored.labels, scored.logits) for scored in by_seed])),
        tpr_at_1_percent_fpr=None if None in rates else float(np.mean([rate for rate in rates if rate is not None])),
        worst_generator=worst,
        worst_generator_auroc=worst_auroc,
        difference=found,
        p_adjusted=adjusted,
        same_as=same_as,
    )


def _within_one(bounds: list[float] | None) -> list[float] | None:
    return None if bounds is None else [max(0.0, bounds[0]), min(1.0, bounds[1])]


def _worst_generator(by_seed: Sequence[Scored]) -> tuple[str, float]:
    """The generator with the smallest mean AUC against all real images."""
    means = {}
    for name in sorted(set(by_seed[0].generators[by_seed[0].labels == 1].tolist())):
        keep = (by_seed[0].labels == 0) | (by_seed[0].generators == name)
        means[name] = float(np.mean([auroc(scored.logits[keep], scored.labels[keep]) for scored in by_seed]))
    worst = min(means, key=means.__getitem__)
    return worst, means[worst]


HEADER = (
    "row",
    "AUC",
    "std over seeds",
    "95 % interval",
    "mis-ranked pairs",
    "AP",
    "TPR at 1 % FPR",
    "worst generator",
    "difference to ours",
    "95 % interval of it",
    "p (Holm)",
    "paper's AUC",
)


def cells(row: Row) -> list[str]:
    """A row as people read it; ``=`` marks a difference that is not distinguishable from zero."""
    found, digits = row.difference, _digits(row)
    mark = "" if row.distinguishable is not False else " ="
    return [
        row.name if row.same_as is None else f"{row.name} (is {row.same_as})",
        f"{row.auroc:.{digits}f}",
        "one seed" if row.auroc_std is None else f"{row.auroc_std:.{digits}f}",
        f"at least {row.auroc_interval[0]:.{digits}f}"
        if row.one_sided and row.auroc_interval
        else _span(row.auroc_interval, digits),
        f"{row.misranked_pairs:,.1f} of {row.pairs:,}",
        f"{row.average_precision:.6f}",
        "too few real images" if row.tpr_at_1_percent_fpr is None else f"{row.tpr_at_1_percent_fpr:.4f}",
        f"{row.worst_generator} {row.worst_generator_auroc:.4f}",
        "" if found is None else f"{found.value:+.{digits}f}{mark}",
        "" if found is None else _span(found.interval, digits),
        "" if row.p_adjusted is None else f"{row.p_adjusted:.3g}" if row.seeds > 1 else "one seed can not tell",
        f"{PAPER_AUC[row.name]:.8f}" if row.name in PAPER_AUC else "not published here",
    ]


def _digits(row: Row) -> int:
    """Decimals that show what the pairs can resolve, at least four."""
    return max(4, len(str(row.pairs)))


def _span(bounds: list[float] | None, digits: int) -> str:
    return "unknown" if bounds is None else f"[{bounds[0]:.{digits}f}, {bounds[1]:.{digits}f}]"


def note(rows: Sequence[Row], baseline: str) -> str:
    """What a reader has to know of the table."""
    return (
        f"Means over {rows[0].seeds} seeds. Intervals by a joint bootstrap over seeds and records; where none is mis-ranked, "
        f"a one-sided 95 % bound. p: two-sided, of no difference to `{baseline}`, from components summed over records "
        "(Obuchowski) and the variance over seeds, adjusted by Holm. "
        f"`=`: not distinguishable from zero at {SIGNIFICANCE:g}. The paper's value is for D3, whatever these features are."
    )


def as_markdown(rows: Sequence[Row], baseline: str) -> str:
    """The table in Markdown."""
    lines = [HEADER, ["---"] * len(HEADER), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + note(rows, baseline) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The table for programs: plain numbers, empty where there is none."""
    out = io.StringIO()
    lines = [_numbers(row) for row in rows]
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _numbers(row: Row) -> dict[str, object]:
    low, high = row.auroc_interval or (None, None)
    found = row.difference
    difference_low, difference_high = (found.interval if found else None) or (None, None)
    return {
        "row": row.name,
        "seeds": row.seeds,
        "auroc": row.auroc,
        "auroc_std": row.auroc_std,
        "auroc_low": low,
        "auroc_high": high,
        "misranked_pairs": row.misranked_pairs,
        "pairs": row.pairs,
        "average_precision": row.average_precision,
        "tpr_at_1_percent_fpr": row.tpr_at_1_percent_fpr,
        "worst_generator": row.worst_generator,
        "worst_generator_auroc": row.worst_generator_auroc,
        "difference": found.value if found else None,
        "difference_low": difference_low,
        "difference_high": difference_high,
        "p_value": found.p_value if found else None,
        "p_holm": row.p_adjusted,
        "distinguishable": row.distinguishable,
        "paper_auroc": PAPER_AUC.get(row.name),
        "same_as": row.same_as,
    }
