"""The table of an ablation: metrics of each row, and its difference to the baseline with interval and p-value."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rdd.evaluation.bootstrap import bound_without_errors
from rdd.evaluation.paired import Difference, difference, holm, joint_bootstrap, spread_of
from rdd.evaluation.probes import PROBES
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc, average_precision, misranked_pairs, true_positive_rate

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
    """P-value of the difference, adjusted for the number of rows by Holm's method."""
    same_as: str | None
    """The row with the same settings on these features, whose runs this one shares; None if there is none."""

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
    adjusted = holm({name: one.p_value for name, one in differences.items() if name not in same_as})
    adjusted |= {name: adjusted[other] for name, other in same_as.items() if other in adjusted}
    return [
        _row(name, by_seed, drawn[name], differences.get(name), adjusted.get(name), same_as.get(name))
        for name, by_seed in rows.items()
    ]


def _row(
    name: str,
    by_seed: Sequence[Scored],
    drawn: np.ndarray,
    to_baseline: Difference | None,
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
        average_precision=float(np.mean([average_precision(scored.logits, scored.labels) for scored in by_seed])),
        tpr_at_1_percent_fpr=None if None in rates else float(np.mean([rate for rate in rates if rate is not None])),
        worst_generator=worst,
        worst_generator_auroc=worst_auroc,
        difference=to_baseline,
        p_adjusted=adjusted,
        same_as=same_as,
    )


def _within_one(bounds: list[float] | None) -> list[float] | None:
    return None if bounds is None else [max(0.0, bounds[0]), min(1.0, bounds[1])]


def _worst_generator(by_seed: Sequence[Scored]) -> tuple[str, float]:
    """The generator with the smallest mean AUC against all real images."""
    means = {}
    for name, images in by_seed[0].generated_by().items():
        keep = (by_seed[0].labels == 0) | images
        means[name] = float(np.mean([auroc(scored.logits[keep], scored.labels[keep]) for scored in by_seed]))
    worst = min(means, key=means.__getitem__)
    return worst, means[worst]


@dataclass(frozen=True)
class Column:
    """One column of the table."""

    header: str
    """Header in the Markdown table and the picture."""
    value: Callable[[Row], dict[str, object]]
    """Values of a row by their column names in the CSV."""
    text: Callable[[Row], str]
    """Text of a row's cell in the Markdown table and the picture."""


def _name(row: Row) -> str:
    return row.name if row.same_as is None else f"{row.name} (is {row.same_as})"


def _decimals(row: Row) -> int:
    """Decimals that show what the pairs can resolve, at least four."""
    return max(4, len(str(row.pairs)))


def _span(bounds: list[float] | None, decimals: int) -> str:
    return "unknown" if bounds is None else f"[{bounds[0]:.{decimals}f}, {bounds[1]:.{decimals}f}]"


def _bounds(name: str, bounds: list[float] | None) -> dict[str, object]:
    low, high = bounds or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _interval_text(row: Row) -> str:
    if row.one_sided and row.auroc_interval:
        return f"at least {row.auroc_interval[0]:.{_decimals(row)}f}"
    return _span(row.auroc_interval, _decimals(row))


def _difference_text(row: Row) -> str:
    """The difference; ``=`` marks one that is not distinguishable from zero."""
    if row.difference is None:
        return ""
    return f"{row.difference.value:+.{_decimals(row)}f}" + (" =" if row.distinguishable is False else "")


def _p_value_text(row: Row) -> str:
    if row.p_adjusted is None:
        return ""
    return f"{row.p_adjusted:.3g}" if row.seeds > 1 else "one seed can not tell"


COLUMNS = (
    Column("row", lambda row: {"row": row.name, "seeds": row.seeds}, _name),
    Column("AUC", lambda row: {"auroc": row.auroc}, lambda row: f"{row.auroc:.{_decimals(row)}f}"),
    Column(
        "std over seeds",
        lambda row: {"auroc_std": row.auroc_std},
        lambda row: "one seed" if row.auroc_std is None else f"{row.auroc_std:.{_decimals(row)}f}",
    ),
    Column("95 % interval", lambda row: _bounds("auroc", row.auroc_interval), _interval_text),
    Column(
        "mis-ranked pairs",
        lambda row: {"misranked_pairs": row.misranked_pairs, "pairs": row.pairs},
        lambda row: f"{row.misranked_pairs:,.1f} of {row.pairs:,}",
    ),
    Column("AP", lambda row: {"average_precision": row.average_precision}, lambda row: f"{row.average_precision:.6f}"),
    Column(
        "TPR at 1 % FPR",
        lambda row: {"tpr_at_1_percent_fpr": row.tpr_at_1_percent_fpr},
        lambda row: "too few real images" if row.tpr_at_1_percent_fpr is None else f"{row.tpr_at_1_percent_fpr:.4f}",
    ),
    Column(
        "worst generator",
        lambda row: {"worst_generator": row.worst_generator, "worst_generator_auroc": row.worst_generator_auroc},
        lambda row: f"{row.worst_generator} {row.worst_generator_auroc:.4f}",
    ),
    Column(
        "difference to ours", lambda row: {"difference": row.difference.value if row.difference else None}, _difference_text
    ),
    Column(
        "95 % interval of it",
        lambda row: _bounds("difference", row.difference.interval if row.difference else None),
        lambda row: "" if row.difference is None else _span(row.difference.interval, _decimals(row)),
    ),
    Column(
        "p (Holm)",
        lambda row: {
            "p_value": row.difference.p_value if row.difference else None,
            "p_holm": row.p_adjusted,
            "distinguishable": row.distinguishable,
        },
        _p_value_text,
    ),
    Column(
        "paper's AUC",
        lambda row: {"paper_auroc": PAPER_AUC.get(row.name), "same_as": row.same_as},
        lambda row: f"{PAPER_AUC[row.name]:.8f}" if row.name in PAPER_AUC else "not published here",
    ),
)
"""The whole table: a further column is one more entry."""


def row_values(row: Row) -> dict[str, object]:
    """The values of a row by their names in the CSV; None where there is none."""
    return {name: value for column in COLUMNS for name, value in column.value(row).items()}


def short_texts(row: Row) -> tuple[str, str, str]:
    """AUC with its interval, the difference with its interval, and the p-value, as short as a narrow column needs."""
    low = row.auroc_interval[0] if row.auroc_interval else row.auroc
    decimals = max(3, math.ceil(-math.log10(max(1 - low, 1e-12))) + 1)
    auc = f"{row.auroc:.{decimals}f} {_span(row.auroc_interval, decimals)}"
    if row.difference is None:
        return auc, "", ""
    difference = f"{row.difference.value:+.{decimals}f} {_span(row.difference.interval, decimals)}"
    if row.p_adjusted is None or row.seeds < 2:
        return auc, difference, ""
    return auc, difference, "<.001" if row.p_adjusted < 0.001 else f"{row.p_adjusted:.3f}"


def note(rows: Sequence[Row], baseline: str) -> str:
    """What a reader has to know of the table."""
    probes = [f"`{row.name}`" for row in rows if row.name in PROBES]
    of_probes = f"{' and '.join(probes)}: fitted once, on the features and the split of `{baseline}`. " if probes else ""
    return (
        f"Means over {rows[0].seeds} seeds. Intervals by a joint bootstrap over seeds and records; where none is mis-ranked, "
        f"a one-sided 95 % bound. p: two-sided, of no difference to `{baseline}`, from components summed over records "
        f"(Obuchowski) and the variance over seeds, adjusted by Holm. {of_probes}"
        f"`=`: not distinguishable from zero at {SIGNIFICANCE:g}. The paper's value is for D3, whatever these features are."
    )


def as_markdown(rows: Sequence[Row], baseline: str, pages: Mapping[str, str] | None = None) -> str:
    """The table in Markdown.

    Args:
        rows: of :func:`ablation_rows`.
        baseline: the row that the others are compared to.
        pages: by name of a row, the address of the page about one of its runs, which its name links to.
    """
    pages = pages or {}
    lines = [[column.header for column in COLUMNS], ["---"] * len(COLUMNS)]
    for row in rows:
        name, *others = (column.text(row) for column in COLUMNS)
        lines.append([f"[{name}]({pages[row.name]})" if row.name in pages else name, *others])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + note(rows, baseline) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The table for programs: plain numbers, empty where there is none."""
    out = io.StringIO()
    lines = [row_values(row) for row in rows]
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
