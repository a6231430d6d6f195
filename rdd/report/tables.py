"""The tables of a page, from results as the stages wrote them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from rdd.report.answer import KINDS
from rdd.report.charts import strip
from rdd.report.numbers import plain_number

_SEEN = {"seen": True, "unseen": False, "all": None}
"""By key of a report's ``novelty``, what its generators' rows have under ``seen``."""

_SHOWN_ELSEWHERE = ("by_generator", "by_family", "novelty", "worst_generator", "evaluated")
"""Parts of a report with tables of their own."""


@dataclass(frozen=True)
class GroupRow:
    """A generator or a family against all real images."""

    name: str
    values: Mapping[str, Any]
    """As the report has them."""
    strip: Markup
    """Its AUC and interval as a drawing."""


@dataclass(frozen=True)
class Group:
    """Generators that are averaged with each other, since all or none of them were seen in training."""

    title: str
    rows: Sequence[GroupRow]
    """The worst first."""
    summary: Mapping[str, Any]
    """Mean and worst, as the report's ``novelty`` has them; empty for a report of an earlier version."""


def generator_groups(report: Mapping[str, Any]) -> list[Group]:
    """Seen and unseen generators apart."""
    rows = report["by_generator"]
    low = _lowest(rows)
    groups = []
    for kind, summary in (report.get("novelty") or {"all": {}}).items():
        own = {name: row for name, row in rows.items() if row.get("seen") is _SEEN.get(kind)}
        groups.append(Group(KINDS.get(kind, kind), _rows(own, low), summary))
    return groups


def family_rows(report: Mapping[str, Any]) -> list[GroupRow]:
    """Families, where one of them is more than a generator of its name."""
    families = report.get("by_family") or {}
    if set(families) == set(report["by_generator"]):
        return []
    return _rows(families, _lowest(families))


def _rows(rows: Mapping[str, Mapping[str, Any]], low: float) -> list[GroupRow]:
    ordered = sorted(rows.items(), key=lambda item: item[1]["auroc"])
    return [GroupRow(name, row, strip(row["auroc"], row.get("auroc_interval"), low=low)) for name, row in ordered]


def _lowest(rows: Mapping[str, Mapping[str, Any]]) -> float:
    """Where the drawings of a table begin: 0.5, which is chance, or below where a value is."""
    values = [bound for row in rows.values() for bound in (row["auroc"], *(row.get("auroc_interval") or ()))]
    return 0.5 if min(values, default=0.5) >= 0.5 else 0.0


def all_numbers(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Every number of a report: its name, its value, and its interval where it has one; those within another by both names."""
    rows: list[tuple[str, str, str]] = []
    for name, value in report.items():
        if name.endswith("_interval") or name.rpartition(": ")[2] in _SHOWN_ELSEWHERE:
            continue
        if isinstance(value, Mapping):
            rows += all_numbers({f"{name}: {key}": one for key, one in value.items()})
        elif not isinstance(value, list):
            rows.append((name.replace("_", " "), plain_number(value), _ends(report.get(f"{name}_interval"))))
    return rows


def _ends(bounds: Any) -> str:
    return f"{bounds[0]:.6g} to {bounds[1]:.6g}" if isinstance(bounds, list) and len(bounds) == 2 else ""


def audit_rows(audit: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Properties by name: red leaks first, then by how well they tell the classes apart, the unknown ones last."""

    def order(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, float]:
        return not item[1]["red"], -1.0 * (item[1]["auroc"] if item[1]["auroc"] is not None else -1.0)

    return sorted(audit["properties"].items(), key=order)


def curve_rows(robustness: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Copies by the name of their curve, the clean images first, each curve from mild to strong."""
    copies = robustness["copies"]
    rows = [("", copies["clean"])]
    return rows + [(curve, copies[copy]) for curve, of in robustness["curves"].items() for copy in of]
