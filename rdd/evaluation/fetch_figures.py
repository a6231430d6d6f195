"""The picture of a fetch: what became of the links, by cause, and by domain."""

from functools import partial

import pyarrow as pa

from rdd import storage
from rdd.data.fetch_report import by_cause, by_domain
from rdd.evaluation.figures import BLUE, VERMILLION, new_figure, plain_text, png, save_figure
from rdd.schema import STATUS_OK

_CAUSES_SHOWN, _DOMAINS_SHOWN = 20, 20


def save_fetch_figures(folder: str, table: pa.Table) -> None:
    """Draw ``survival.png`` into the folder of a report.

    Args:
        folder: where.
        table: ``url`` and ``status`` of every record.
    """
    save_figure(storage.join(folder, "survival.png"), partial(survival_figure, by_cause(table), by_domain(table)))


def survival_figure(causes: dict[str, int], domains: dict[str, dict[str, int]]) -> bytes:
    """Records by status, and the largest domains with what is left of each, as PNG.

    Args:
        causes: records by status, most frequent first.
        domains: by domain, records by status, the largest first.
    """
    figure = new_figure(11, 2.2 + 0.26 * max(min(len(causes), _CAUSES_SHOWN), min(len(domains), _DOMAINS_SHOWN)))
    left, right = figure.subplots(1, 2)
    total = sum(causes.values())
    shown = dict(list(causes.items())[:_CAUSES_SHOWN])
    colors = [BLUE if status == STATUS_OK else VERMILLION for status in shown]
    hatches = ["" if status == STATUS_OK else "//" for status in shown]
    bars = left.barh([plain_text(status) for status in shown], list(shown.values()), color=colors, hatch=hatches, edgecolor="w")
    left.bar_label(bars, [f" {count:,} ({count / total:.1%})" for count in shown.values()], fontsize="small")
    left.set_title(f"What became of {total:,} records")
    left.set_xlabel("records")
    left.margins(x=0.3)
    left.invert_yaxis()
    largest = list(domains.items())[:_DOMAINS_SHOWN]
    names = [plain_text(domain or "(no host)") for domain, _ in largest]
    ok = [statuses.get(STATUS_OK, 0) for _, statuses in largest]
    failed = [sum(statuses.values()) - alive for (_, statuses), alive in zip(largest, ok, strict=True)]
    places = range(len(largest))
    right.barh(places, ok, color=BLUE, label="an image")
    right.barh(places, failed, left=ok, color=VERMILLION, hatch="//", edgecolor="w", label="none")
    right.set_yticks(places, names)
    right.invert_yaxis()
    right.set_xlabel("records")
    right.set_title(f"The largest of {len(domains):,} domains")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize="small")
    return png(figure)
