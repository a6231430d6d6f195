"""What can be said only when every image is there: placeholders, rows of one address, and a block list that has grown.

It is planned from a few columns of all files, and done file by file, in those alone that change. A file may be done twice: a
killed run that goes on finds the same changes, or none.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd.data.block_list import BlockList
from rdd.data.fetch_part import drop_images
from rdd.data.fetched import Part, part_of_row, read_part, write_part
from rdd.data.outcomes import BLOCKED, PLACEHOLDER
from rdd.data.parquet_rows import read_rows
from rdd.progress import logged
from rdd.schema import FETCHED, STATUS_OK

_READ_THREADS = 16
_COPIED = [name for name in FETCHED.names if name not in ("id", "url", "attempts", "declared_width", "declared_height")]
"""What a row takes from the row that its address was asked for in."""


@dataclass
class Change:
    """What is to be done in one file."""

    same_url: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By row, the file (its number) and the row that hold its image."""
    placeholders: list[int] = field(default_factory=list)
    blocked: list[int] = field(default_factory=list)


def read_described(output: str, parts: Sequence[Part]) -> pa.Table:
    """Of every record, in order: url, final_url, status, sha256 and attempts."""
    columns = ["url", "final_url", "status", "sha256", "attempts"]
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        tables = pool.map(lambda part: read_part(output, part, columns), parts)
        return pa.concat_tables(logged(tables, total=len(parts), what="files of real images checked")).combine_chunks()


def placeholder_hashes(table: pa.Table, first: pa.Array, placeholder_urls: int) -> pa.Array:
    """Hashes of bytes that more than ``placeholder_urls`` different addresses served.

    Args:
        table: of :func:`read_described`.
        first: by row, the first row with its address.
        placeholder_urls: the largest number of addresses of one image.
    """
    own = pc.equal(first, pa.array(np.arange(table.num_rows)))
    served = pc.and_(own, pc.is_in(table["status"], value_set=pa.array([STATUS_OK, PLACEHOLDER])))
    counts = pc.value_counts(table["sha256"].filter(served).combine_chunks())
    return counts.field("values").filter(pc.greater(counts.field("counts"), placeholder_urls))


def plan_changes(
    table: pa.Table, first: pa.Array, placeholders: pa.Array, blocked: BlockList, records_per_file: int
) -> dict[int, Change]:
    """What is to be done, by the number of the file.

    Args:
        table: of :func:`read_described`.
        first: by row, the first row with its address.
        placeholders: of :func:`placeholder_hashes`.
        blocked: the block list as it is now.
        records_per_file: of every file but the last.
    """
    changes: dict[int, Change] = {}
    status, firsts = table["status"], np.asarray(first)
    repeated = np.flatnonzero(firsts != np.arange(len(firsts)))

    def change_of(row: int) -> tuple[Change, int]:
        part, inner = part_of_row(row, records_per_file)
        return changes.setdefault(part, Change()), inner

    for row in repeated[_differs(table.take(repeated), table.take(firsts[repeated]))].tolist():
        change, inner = change_of(row)
        change.same_url[inner] = part_of_row(int(firsts[row]), records_per_file)
    has_image = pc.equal(status, STATUS_OK)
    for row in _rows(pc.and_(has_image, _is_blocked(table, has_image, blocked))):
        change, inner = change_of(row)
        change.blocked.append(inner)
    for row in _rows(pc.and_(has_image, pc.is_in(table["sha256"], value_set=placeholders))):
        change, inner = change_of(row)
        change.placeholders.append(inner)
    return changes


def apply_change(
    output: str, parts: Mapping[int, Part], number: int, change: Change, placeholders: pa.Array, blocked: BlockList
) -> None:
    """Do what is to be done in one file, and replace it.

    Args:
        output: the directory.
        parts: by number, the file itself and those that images are taken from.
        number: of the file.
        change: of :func:`plan_changes`.
        placeholders: hashes of placeholders, also for images that are taken from elsewhere.
        blocked: the block list, likewise.
    """
    part = parts[number]
    table = _fill_in(read_part(output, part), change, output, parts)
    image = pc.equal(table["status"], STATUS_OK)
    table = drop_images(
        table, _marked(image, change.blocked, _is_blocked(table, image, blocked)), BLOCKED, "on fetch.block_list by now"
    )
    image = pc.equal(table["status"], STATUS_OK)
    shared = pc.is_in(table["sha256"], value_set=placeholders)
    table = drop_images(table, _marked(image, change.placeholders, shared), PLACEHOLDER, "many addresses serve these bytes")
    write_part(output, part, table)


def _differs(rows: pa.Table, firsts: pa.Table) -> np.ndarray:
    """``(n,)`` bool: another status or other bytes than the row that the address was asked for in."""
    same = [pc.equal(pc.fill_null(rows[name], ""), pc.fill_null(firsts[name], "")) for name in ("status", "sha256")]
    return ~np.asarray(pc.and_(*same))


def _rows(mask: pa.ChunkedArray | pa.Array) -> list[int]:
    return np.flatnonzero(np.asarray(pc.fill_null(mask, False))).tolist()


def _marked(image: pa.ChunkedArray, rows: list[int], more: pa.ChunkedArray) -> pa.ChunkedArray:
    """Rows with an image that are named, or marked in ``more``."""
    named = np.zeros(len(image), dtype=bool)
    named[rows] = True
    return pc.and_(image, pc.or_(pa.array(named), pc.fill_null(more, False)))


def _is_blocked(table: pa.Table, image: pa.ChunkedArray, blocked: BlockList) -> pa.Array:
    """Whether the address, the final address, their hosts or the bytes of a row with an image are on the list."""
    if not blocked.identity:
        return pa.array(np.zeros(table.num_rows, dtype=bool))
    urls, finals, hashes = (table[name].to_pylist() for name in ("url", "final_url", "sha256"))
    return pa.array(
        [
            bool(has_image) and (sha256 in blocked.sha256 or blocked.holds_url(url) or blocked.holds_url(final or ""))
            for has_image, url, final, sha256 in zip(image.to_pylist(), urls, finals, hashes, strict=True)
        ]
    )


def _fill_in(table: pa.Table, change: Change, output: str, parts: Mapping[int, Part]) -> pa.Table:
    """Rows of an address that was asked for in another row, with what came of it there."""
    if not change.same_url:
        return table
    found = _read_places(output, parts, set(change.same_url.values()))
    rows = sorted(change.same_url)
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[rows] = True
    for name in _COPIED:
        field_ = FETCHED.field(name)
        values = pa.array([found[change.same_url[row]][name] for row in rows], field_.type)
        column = pc.replace_with_mask(table[name].combine_chunks(), pa.array(mask), values)
        table = table.set_column(table.schema.get_field_index(name), field_, column)
    return table


def _read_places(output: str, parts: Mapping[int, Part], places: set[tuple[int, int]]) -> dict[tuple[int, int], dict]:
    """The rows at some places, by file and row.

    Raises:
        RuntimeError: a page of a file is damaged.
    """
    found: dict[tuple[int, int], dict] = {}
    for number in sorted({number for number, _ in places}):
        inner = sorted(row for part, row in places if part == number)
        for rows, table in read_rows(parts[number].path(output), inner, _COPIED):
            if isinstance(table, str):
                raise RuntimeError(f"{parts[number].path(output)} can not be read ({table}); delete {output} to fetch again")
            found |= {(number, row): values for row, values in zip(rows.tolist(), table.to_pylist(), strict=True)}
    return found
