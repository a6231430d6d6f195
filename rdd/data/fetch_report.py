"""What became of the links: counts by cause and by domain. Nothing is assumed of how many survive."""

import csv
import io
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.data.block_list import BlockList
from rdd.schema import STATUS_OK

CAUSES, DOMAINS = "causes.csv", "domains.csv"
"""CSV and no Parquet: every Parquet file of the directory is read as a table of real images."""


def summarize(output: str, table: pa.Table, placeholders: pa.Array, *, round_number: int, blocked: BlockList) -> dict[str, Any]:
    """What the job reports, and what its result file holds.

    Args:
        output: the directory.
        table: of :func:`rdd.data.fetch_whole.read_described`, when all is done.
        placeholders: hashes of placeholders.
        round_number: which round it was.
        blocked: the block list that was applied.
    """
    status = by_cause(table)
    ok = status.get(STATUS_OK, 0)
    return {
        "output": output,
        "records": table.num_rows,
        "ok": ok,
        "failed": table.num_rows - ok,
        "survival": ok / table.num_rows,
        "status": status,
        "placeholder_images": len(placeholders),
        "round": round_number,
        "block_list": blocked.identity,
    }


def by_cause(table: pa.Table) -> dict[str, int]:
    """Records by status, most frequent first."""
    counts = pc.value_counts(table["status"].combine_chunks()).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counts, key=lambda entry: (-entry["counts"], entry["values"]))}


def by_domain(table: pa.Table) -> dict[str, dict[str, int]]:
    """Records by status for each host that addresses name, the host with the most records first."""
    domains = pa.array([_domain(url) for url in table["url"].to_pylist()], pa.string())
    pairs = (
        pa.table({"domain": domains, "status": table["status"]}).group_by(["domain", "status"]).aggregate([([], "count_all")])
    )
    counts: dict[str, dict[str, int]] = {}
    for entry in pairs.to_pylist():
        counts.setdefault(entry["domain"], {})[entry["status"]] = entry["count_all"]
    ordered = sorted(counts, key=lambda domain: (-sum(counts[domain].values()), domain))
    return {domain: dict(sorted(counts[domain].items())) for domain in ordered}


def write_report(output: str, table: pa.Table) -> str:
    """Write ``report/causes.csv`` (a row a status) and ``report/domains.csv`` (a row a domain and status); the folder."""
    folder = storage.join(output, "report")
    causes = [(status, count, f"{count / table.num_rows:.6f}") for status, count in by_cause(table).items()]
    _write_csv(storage.join(folder, CAUSES), ("status", "records", "share"), causes)
    domains = [(domain, status, count) for domain, statuses in by_domain(table).items() for status, count in statuses.items()]
    _write_csv(storage.join(folder, DOMAINS), ("domain", "status", "records"), domains)
    return folder


def _domain(url: str | None) -> str:
    """The host that an address names, without ``www.``; empty where it names none."""
    try:
        return (urlsplit(url or "").hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def _write_csv(path: str, header: tuple[str, ...], rows: list[tuple]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    storage.write_bytes(path, text.getvalue().encode(errors="backslashreplace"))
