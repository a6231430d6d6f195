"""Images without labels, as somebody who wants answers names them: files, folders, wildcards, tables and addresses."""

import logging
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from rdd import storage
from rdd.config.fetch import FetchConfig
from rdd.data.folder import IMAGE_SUFFIXES, list_images, printable
from rdd.data.image_files import ANYWHERE
from rdd.data.image_tables import SUFFIXES, read_image_table
from rdd.data.index import make_index
from rdd.data.unlabelled_reader import UnlabelledReader, is_address
from rdd.data.wildcards import glob_files, is_wildcard

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""What stands for the generator of an image that bears no label."""

GIVEN = "given"
"""``source`` of images that were named one by one."""


@dataclass(frozen=True)
class _Images:
    """Some images, before they are rows of the index."""

    source: str
    """The table, or whatever they were named by."""
    keys: list[str]
    """Unique in the whole set: the absolute path, the address, or table and row."""
    names: list[str]
    """As answers call them."""
    places: list[str | None] | None
    """Paths or addresses; None where the source is a table that holds the images."""
    captions: list[str | None] | None = None
    not_utf8: frozenset[int] = frozenset()
    """Those whose name or caption is no UTF-8."""


class UnlabelledSource:
    """Images that some words name, each a record of its own.

    A word is a file, a folder (all images below it, by their endings, but hidden ones), a wildcard such as ``photos/*.jpg``, a
    table (.csv or .parquet with a column ``path``, relative to the table, ``bytes``, in Parquet, or ``url``, and optionally
    ``caption``), or an address; local or on S3. What is named twice is looked at once. A file that is not there is a record
    with its reason, unless nothing else is named either.

    Args:
        words: what names them.
        caption: of every image that has none of its own; empty for none.
        fetch: how addresses are fetched; None where they are refused.

    Raises:
        ValueError: nothing matches, a table can not be read, or there are addresses and they are refused.
    """

    def __init__(self, words: Sequence[str], *, caption: str = "", fetch: FetchConfig | None = None) -> None:
        missing: list[str] = []
        found = [images for word in words for images in _named(word, missing) if images.keys]
        if all(images.source == GIVEN and images.keys[0] in missing for images in found):
            raise ValueError(f"no image matches {_listed(words)}; name files, folders, wildcards, or tables with a row")
        self.reader = UnlabelledReader(fetch)
        self._index = _without_repeats(pa.concat_tables([_indexed(images, caption) for images in found]))
        if fetch is None and (address := _first_address(self._index)) is not None:
            raise ValueError(f"{address} would have to be fetched; allow that by --allow-urls (predict.allow_urls)")

    def index(self) -> pa.Table:
        """One row an image (``schema.INDEX``), in the order of the words; ``record_id`` is what answers call it."""
        return self._index


def _named(word: str, missing: list[str]) -> list[_Images]:
    """What one word names; a file that is not there is noted in ``missing`` by its key."""
    if is_address(word):
        return [_Images(GIVEN, [word], [word], [word])]
    if is_wildcard(word) and not _exists(word):
        files = [file.path for file in glob_files(word)]
        if not files:
            logger.warning("%s matches no file", word)
        return _of_files(files, files)
    if not storage.is_remote(word) and os.path.isdir(storage.absolute(word)):
        return [_of_folder(word)]
    if storage.is_remote(word) and not word.lower().endswith((*IMAGE_SUFFIXES, *SUFFIXES)) and _is_remote_folder(word):
        return [_of_folder(word)]
    if not _exists(word):
        missing.append(printable(storage.absolute(word)))
    return _of_files([storage.absolute(word)], [word])


def _exists(word: str) -> bool:
    """Whether there is something; a local name need not be UTF-8, which Arrow's file system asks for."""
    return storage.exists(word) if storage.is_remote(word) else os.path.lexists(storage.absolute(word))


def _is_remote_folder(word: str) -> bool:
    fs, inner = storage.filesystem(word)
    return fs.get_file_info(inner).type == pafs.FileType.Directory


def _of_folder(word: str) -> _Images:
    folder = storage.absolute(word)
    names = list_images(word, ANYWHERE).names
    if not names:
        logger.warning(
            "no image lies below %s, by the endings %s; name a table by its file, or tables by a wildcard such as %s/*.parquet",
            word,
            " ".join(IMAGE_SUFFIXES),
            word.rstrip("/"),
        )
    return _of_places([posixpath.join(folder, name) for name in names], [posixpath.join(word, name) for name in names], folder)


def _of_files(places: list[str], names: list[str]) -> list[_Images]:
    """Files that are named one by one or by a wildcard: tables for themselves, the others together."""
    tables = [place for place in places if place.lower().endswith(SUFFIXES)]
    others = [(place, name) for place, name in zip(places, names, strict=True) if not place.lower().endswith(SUFFIXES)]
    images = _of_places([place for place, _ in others], [name for _, name in others], GIVEN)
    return [*map(_of_table, tables), images]


def _of_places(places: list[str], names: list[str], source: str) -> _Images:
    shown = [printable(place) for place in places]
    odd = frozenset(row for row, (place, here) in enumerate(zip(places, shown, strict=True)) if place != here)
    return _Images(printable(source), shown, [printable(name) for name in names], list(shown), None, odd)


def _of_table(path: str) -> _Images:
    table, base = read_image_table(path), posixpath.basename(path)
    keys = [f"{path}#{row}" for row in range(table.rows)]
    if table.places is None:
        return _Images(path, keys, [f"{base}#{row}" for row in range(table.rows)], None, table.captions, table.not_utf8)
    names = [place or f"{base}#{row}" for row, place in enumerate(table.places)]
    if table.column == "url":  # which must not open files of this machine, whoever wrote the table
        places = [place if place and is_address(place) else None for place in table.places]
    else:
        places = [_beside(path, place) for place in table.places]
    return _Images(path, keys, names, places, table.captions, table.not_utf8)


def _beside(table: str, place: str | None) -> str | None:
    if not place or "://" in place:
        return place
    return storage.join(posixpath.dirname(table), place)  # an absolute path stays as it is


def _indexed(images: _Images, caption: str) -> pa.Table:
    """Rows of the index; of arrays rather than lists where that can be, since there may be tens of millions."""
    count, places = len(images.keys), images.places
    rows = pa.array(np.arange(count))
    columns: dict[str, Any] = {
        "key": images.keys,
        "source": pa.repeat(images.source, count),
        "row": rows,
        "rows": _singles(rows),
        "record_id": images.names,
        "generators": _singles(pa.repeat(UNKNOWN, count)),
    }
    if images.captions is not None or caption:
        columns["caption"] = [own or caption or None for own in images.captions or [None] * count]
    if places is not None:
        shown = pa.array([place or None for place in places], pa.string())
        columns["paths"] = _singles(shown) if not shown.null_count else [[place] if place else None for place in places]
    if flaws := {row: flaw for row in range(count) if (flaw := _flaw(images, row)) is not None}:
        columns["stage"] = ["index" if row in flaws else None for row in range(count)]
        columns["reason"], columns["detail"] = zip(*(flaws.get(row, (None, None)) for row in range(count)), strict=True)
    return make_index(columns)


def _singles(values: pa.Array) -> pa.ListArray:
    """Lists of one value each."""
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values)


def _flaw(images: _Images, row: int) -> tuple[str, str] | None:
    """Why an image can not be used, in a word and in a sentence."""
    if row in images.not_utf8:
        return "not_utf8", "its name or caption is no UTF-8: rename it"
    if images.places is not None and not images.places[row]:
        return "null_path", "its row names no file, or in a column url no address"
    return None


def _without_repeats(index: pa.Table) -> pa.Table:
    """The rows whose image was not named before."""
    rows = pa.table({"key": index["key"], "row": np.arange(index.num_rows)})
    first = np.sort(np.asarray(rows.group_by("key").aggregate([("row", "min")])["row_min"]))
    if len(first) < index.num_rows:
        logger.info("%d images are named twice, and looked at once", index.num_rows - len(first))
    return index.take(first)


def _first_address(index: pa.Table) -> str | None:
    places = pc.list_flatten(index["paths"]).combine_chunks()
    found = places.filter(pc.match_substring_regex(places, "^https?://", ignore_case=True))
    return found[0].as_py() if len(found) else None


def _listed(words: Sequence[str]) -> str:
    shown = ", ".join(map(printable, words[:5]))
    return shown if len(words) <= 5 else f"{shown} and {len(words) - 5} more"
