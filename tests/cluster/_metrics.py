"""Metrics as Prometheus sees them: what Grafana's queries name, and what Ray's processes serve."""

import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

DASHBOARD = Path(__file__).parent.parent.parent / "cluster" / "grafana" / "rdd.json"

_SELECTOR = re.compile(r"([a-z][a-z0-9_]*)\{([^}]*)\}")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')

Labels = dict[str, set[str]]
"""Label names by the name of a metric."""


def panels() -> list[dict[str, Any]]:
    """Every panel of the dashboard, rows too."""
    return json.loads(DASHBOARD.read_text())["panels"]


def queries() -> Iterator[str]:
    """Every query of the dashboard."""
    for panel in panels():
        yield from (target["expr"] for target in panel.get("targets", []))


def named_in(query: str) -> Labels:
    """What a query asks for: its metrics, each with the labels that it is chosen and grouped by."""
    grouped = {label.strip() for group in _GROUPED.findall(query) for label in group.split(",")}
    return {name: set(_MATCHER.findall(matchers)) | grouped for name, matchers in _SELECTOR.findall(query)}


def scrape(addresses: Iterable[str], into: Labels) -> None:
    """Add what some processes serve; one that is on its way or gone has nothing."""
    for address in addresses:
        try:
            text = urllib.request.urlopen(f"http://{address}/metrics", timeout=5).read().decode()
        except OSError:
            continue
        for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
            into.setdefault(sample.name, set()).update(sample.labels)


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that runs, and since when."""

    address: str
    since: float

    def labels(self) -> Labels:
        """All that it has collected."""
        labels: Labels = {}
        for series in self._ask("series", {"match[]": '{__name__!=""}'}):
            labels.setdefault(series.pop("__name__"), set()).update(series)
        return labels

    def answers(self, query: str) -> bool:
        """Whether it has had a value for a query of the dashboard at any time.

        Raises:
            urllib.error.HTTPError: it does not take the query for well formed.
        """
        text = query.replace("$SessionName", ".+").replace("$__rate_interval", "1m")  # as Grafana, for all sessions
        return bool(self._ask("query_range", {"query": text, "start": self.since, "end": time.time(), "step": 2})["result"])

    def _ask(self, what: str, parameters: Mapping[str, object]) -> Any:
        words = urllib.parse.urlencode({"start": self.since, **parameters})
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{what}?{words}", timeout=10) as answer:
            return json.load(answer)["data"]
