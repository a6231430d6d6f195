"""The files that fetching writes: parts, commits, what only the whole can tell, and the report."""

import asyncio
import csv
import io
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from rdd import storage
from rdd.data.block_list import BlockList
from rdd.data.fetch_part import fetch_rows
from rdd.data.fetch_report import by_domain, summarize, write_report
from rdd.data.fetch_whole import apply_change, placeholder_hashes, plan_changes, read_described
from rdd.data.fetched import (
    Part,
    begin_round,
    commit,
    committed,
    current_round,
    delete_uncommitted,
    keep_addresses,
    missing_parts,
    parts_of,
    read_part,
    write_part,
)
from rdd.data.image_header import image_outcome
from rdd.data.outcomes import Outcome
from rdd.data.real_images import RealImages
from rdd.evaluation.fetch_figures import survival_figure
from rdd.schema import ADDRESSES, FETCHED

PER_FILE = 3


class Web:
    """What each address serves; it counts how often it is asked."""

    def __init__(self, **served: Outcome) -> None:
        self.served, self.asked = served, list[str]()

    async def fetch(self, address: str) -> Outcome:
        self.asked.append(address)
        return self.served.get(address, Outcome("http_404", "Not Found", attempts=1))


def picture(data: bytes, url: str = "http://final.example/") -> Outcome:
    return Outcome("ok", data=data, sha256=f"sha of {data.decode()}", width=2, height=1, final_url=url, attempts=1)


def addresses(*urls: str | None, **status: str) -> pa.Table:
    """Rows of these addresses; ``status`` by row, such as ``r2="excluded"``."""
    known: list[str | None] = [status.get(f"r{row}") for row in range(len(urls))]
    first = [urls.index(url) if known[row] is None else row for row, url in enumerate(urls)]
    known = ["same_url" if first[row] != row else name for row, name in enumerate(known)]
    columns = {"id": [f"r{row}" for row in range(len(urls))], "url": urls, "first": first, "status": known}
    columns |= {"declared_width": [9] * len(urls), "detail": [None] * len(urls), "declared_height": [8] * len(urls)}
    return pa.table(columns, schema=ADDRESSES)


def fetch_all(output: Path, table: pa.Table, web: Web, *, round_number: int = 0) -> list[Part]:
    parts = parts_of(table.num_rows, PER_FILE)
    for part in parts:
        before = read_part(str(output), part) if round_number else None
        rows = asyncio.run(fetch_rows(table.slice(part.start, part.rows), before, web, lambda outcome: None))
        write_part(str(output), part, rows)
        commit(str(output), part, round_number)
    return parts


def complete(output: Path, table: pa.Table, parts: list[Part], blocked: BlockList | None = None, urls: int = 2) -> pa.Table:
    blocked, first = blocked or BlockList(), table["first"].combine_chunks()
    described = read_described(str(output), parts)
    hashes = placeholder_hashes(described, first, urls)
    changes = plan_changes(described, first, hashes, blocked, PER_FILE)
    for number, change in changes.items():
        apply_change(str(output), dict(enumerate(parts)), number, change, hashes, blocked)
    again = read_described(str(output), parts)
    assert plan_changes(again, first, hashes, blocked, PER_FILE) == {}  # so a killed run may do it once more
    return pa.concat_tables([read_part(str(output), part) for part in parts])


def test_parts_cover_the_records_in_order() -> None:
    parts = parts_of(7, 3)
    assert [(part.name, part.start, part.rows) for part in parts] == [
        ("real-00000-of-00003", 0, 3),
        ("real-00001-of-00003", 3, 3),
        ("real-00002-of-00003", 6, 1),
    ]
    assert len(parts_of(6, 3)) == 2


def test_rows_come_in_the_order_of_the_records_whatever_comes_first(tmp_path: Path) -> None:
    class Slow(Web):
        async def fetch(self, address: str) -> Outcome:
            await asyncio.sleep(0.05 if address == "a" else 0)
            return await super().fetch(address)

    web = Slow(a=picture(b"A"), b=picture(b"B"))
    table = addresses("a", "b", None, "c", "d", r2="null_url", r4="excluded")
    done: list[Outcome] = []
    rows = asyncio.run(fetch_rows(table, None, web, done.append))
    assert rows.schema == FETCHED
    assert rows["id"].to_pylist() == ["r0", "r1", "r2", "r3", "r4"]
    assert rows["bytes"].to_pylist() == [b"A", b"B", None, None, None]
    assert rows["status"].to_pylist() == ["ok", "ok", "null_url", "http_404", "excluded"]
    assert rows["attempts"].to_pylist() == [1, 1, 0, 1, 0]
    assert rows["declared_width"].to_pylist() == [9] * 5
    assert web.asked[-1] == "a"
    assert len(done) == 3


def test_a_repeated_address_is_asked_for_once_and_filled_in_across_files(tmp_path: Path) -> None:
    web = Web(a=picture(b"A"), b=picture(b"B"))
    table = addresses("a", "b", "x", "c", "a", "x", "a")
    rows = complete(tmp_path, table, fetch_all(tmp_path, table, web))
    assert sorted(web.asked) == ["a", "b", "c", "x"]
    assert rows["bytes"].to_pylist() == [b"A", b"B", None, None, b"A", None, b"A"]
    assert rows["status"].to_pylist() == ["ok", "ok", "http_404", "http_404", "ok", "http_404", "ok"]
    assert rows["attempts"].to_pylist() == [1, 1, 1, 1, 0, 0, 0]
    assert rows["id"].to_pylist() == [f"r{i}" for i in range(7)]
    found = RealImages(str(tmp_path)).lookup(["r4", "r5", "r6"])
    assert found == {"r4": ("ok", b"A"), "r5": ("http_404", None), "r6": ("ok", b"A")}


def test_bytes_that_many_addresses_serve_are_a_placeholder_and_those_of_one_address_are_not(tmp_path: Path) -> None:
    gone = picture(b"gone")
    web = Web(a=gone, b=gone, c=gone, d=picture(b"D"), e=picture(b"E"))
    table = addresses("a", "b", "d", "d", "d", "c", "e", "a")
    rows = complete(tmp_path, table, fetch_all(tmp_path, table, web))
    expected = ["placeholder", "placeholder", "ok", "ok", "ok", "placeholder", "ok", "placeholder"]
    assert rows["status"].to_pylist() == expected
    assert [data is None for data in rows["bytes"].to_pylist()] == [status != "ok" for status in expected]
    assert rows["sha256"].to_pylist()[0] == "sha of gone"
    # a larger limit, and it is none
    assert complete(tmp_path / "2", table, fetch_all(tmp_path / "2", table, web), urls=3)["status"].to_pylist() == ["ok"] * 8


def test_a_block_list_that_has_grown_is_applied_to_what_is_there(tmp_path: Path) -> None:
    web = Web(**{f"http://{name}.example/": picture(name.encode()) for name in "abcd"})
    web.served["http://d.example/"] = picture(b"d", "http://elsewhere.example/")
    table = addresses(*(f"http://{name}.example/" for name in "abcda"))
    parts = fetch_all(tmp_path, table, web)
    hosts = frozenset({"b.example", "elsewhere.example"})
    rows = complete(tmp_path, table, parts, BlockList(hosts=hosts, sha256=frozenset({"sha of a"}), identity="x"))
    assert rows["status"].to_pylist() == ["blocked", "blocked", "ok", "blocked", "blocked"]
    assert [data is None for data in rows["bytes"].to_pylist()] == [True, True, False, True, True]


def test_a_further_round_asks_again_for_what_may_pass_alone(tmp_path: Path) -> None:
    web = Web(a=picture(b"A"), b=Outcome("http_503", attempts=4), c=Outcome("read_timeout", attempts=1), d=Outcome("robots"))
    table = addresses("a", "b", "c", "d", "e", "b")
    complete(tmp_path, table, fetch_all(tmp_path, table, web))
    web.asked.clear()
    web.served |= {"b": picture(b"B"), "c": Outcome("http_404", attempts=1), "a": Outcome("http_404"), "d": picture(b"D")}
    rows = complete(tmp_path, table, fetch_all(tmp_path, table, web, round_number=1))
    assert sorted(web.asked) == ["b", "c"]
    assert rows["status"].to_pylist() == ["ok", "ok", "http_404", "robots", "http_404", "ok"]
    assert rows["bytes"].to_pylist() == [b"A", b"B", None, None, None, b"B"]


def test_what_was_never_committed_is_deleted(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert committed(output) == set()
    delete_uncommitted(output)
    table = addresses("a", "b", "c", "d")
    parts = fetch_all(tmp_path, table, Web())
    (tmp_path / ".work" / "commits" / f"{parts[1].name}.0").unlink()
    delete_uncommitted(output)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f"{parts[0].name}.parquet"]
    assert committed(output) == {(parts[0].name, 0)}
    assert missing_parts(output, parts, 0) == [parts[1]]
    assert missing_parts(output, parts, 1) == parts
    commit(output, parts[1], 0)  # by a worker of the killed run, after its file was deleted
    assert missing_parts(output, parts, 0) == [parts[1]]
    assert current_round(output) == 0
    begin_round(output, 3)
    assert current_round(output) == 3


def test_a_resume_takes_the_addresses_it_began_with_and_refuses_others(tmp_path: Path) -> None:
    records, output = tmp_path / "records", str(tmp_path / "out")
    storage.write_table(str(records / "a.parquet"), addresses("a", "b").select(["id", "url"]))
    files = storage.list_files(str(records))
    table = keep_addresses(files, frozenset(), output)
    assert keep_addresses(files, frozenset(), output).equals(table)
    with pytest.raises(RuntimeError, match=r"fetch\.excluded_ids changed since the fetch began; delete .* to begin again"):
        keep_addresses(files, frozenset({"r1"}), output)
    storage.write_table(str(records / "a.parquet"), addresses("a", "b", "c").select(["id", "url"]))
    with pytest.raises(RuntimeError, match="the files of records changed since the fetch began"):
        keep_addresses(storage.list_files(str(records)), frozenset(), output)


def test_the_report_counts_by_cause_and_by_domain(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": ["http://a.example/1", "http://www.a.example/2", "http://b.example/", None, "http://[bad"],
            "status": ["ok", "http_404", "ok", "null_url", "bad_url"],
        }
    )
    summary = summarize(str(tmp_path), table, pa.array(["x"]), round_number=1, blocked=BlockList())
    assert (summary["records"], summary["ok"], summary["failed"], summary["survival"]) == (5, 2, 3, 0.4)
    assert list(summary["status"].items()) == [("ok", 2), ("bad_url", 1), ("http_404", 1), ("null_url", 1)]
    assert by_domain(table) == {
        "": {"bad_url": 1, "null_url": 1},
        "a.example": {"http_404": 1, "ok": 1},
        "b.example": {"ok": 1},
    }
    folder = Path(write_report(str(tmp_path), table))
    with open(folder / "causes.csv") as file:
        assert next(csv.DictReader(file)) == {"status": "ok", "records": "2", "share": "0.400000"}
    with open(folder / "domains.csv") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["records"]) for row in rows) == 5
    assert survival_figure(summary["status"], by_domain(table)).startswith(b"\x89PNG")


def test_an_image_is_judged_by_its_bytes() -> None:
    for data in (b"<html>", b"\x89PNG\r\n\x1a\n" + bytes(40), b"PAR1", b"%!PS-Adobe-3.0 EPSF-3.0"):
        assert image_outcome(data).status == "not_an_image"
    assert image_outcome(b"").status == "empty"
    for name in ("PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG"):
        buffer = io.BytesIO()
        Image.new("RGB", (30, 20)).save(buffer, format=name)
        outcome = image_outcome(buffer.getvalue())
        assert (outcome.status, outcome.content_type) == ("ok", f"image/{name.lower()}")
        assert (outcome.width, outcome.height, outcome.data) == (30, 20, buffer.getvalue())
