"""Read an embedding back and say whether it is whole: every page of every file, every key once, every number of the manifest.

It needs neither records nor weights, writes nothing, and holds some 120 bytes a record besides the rows that it looks at.
"""

import functools
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.config import Config
from rdd.embedding.caption_cosine import cosine_quantiles
from rdd.embedding.check_file import FileContent, FlawError, added, check_file, hash_of_rows
from rdd.embedding.compact import planned
from rdd.embedding.conflicts import repeated_images
from rdd.embedding.output import quarantine_of
from rdd.embedding.reopen import MANIFEST
from rdd.embedding.resume import WORK, data_files, hash_of_keys, read_table, split_committed
from rdd.features.columns import Column, columns_of
from rdd.features.index import READ_THREADS
from rdd.features.manifest import read_manifest
from rdd.hashing import hash_strings
from rdd.progress import logged

logger = logging.getLogger(__name__)

_AGAIN = "start the embedding again by its own command, which embeds what is missing"
_DERIVED_ANEW = "start the embedding again by its own command, which derives it and the manifest from the files anew"
_SHOWN = 20


@dataclass(frozen=True)
class _Expected:
    """What an embedding should hold."""

    files: list[str]
    columns: dict[str, Column]
    d3: bool
    manifest: dict[str, Any] | None
    """None while it is not finished."""
    records: int
    """All that are to be there."""
    keys_hash: str | None
    """Of :func:`rdd.embedding.resume.hash_of_keys`; None where the manifest is an old one."""


def verify(config: Config) -> dict[str, Any]:
    """Read back all that ``embed.output`` holds.

    Returns:
        ``output``, ``whole`` (true), ``files``, ``bytes``, ``records_in``, ``records_written``, ``records_quarantined``,
        ``images``.

    Raises:
        ValueError: there is no embedding.
        RuntimeError: it is not whole; the first fault, how many there are, and the way out. All of them are in the log.
    """
    output = storage.absolute(config.embed.output)
    expected = _expected(output)
    found, damaged = _read_files(expected)
    if damaged:
        _refuse(output, damaged, f"delete {'it' if len(damaged) == 1 else 'these files'} and {_AGAIN}")
    counts = added([content.counts for content in found.values()])
    _check_keys(output, expected, found)
    if expected.manifest is None:
        _refuse(output, {MANIFEST: "is not written yet, though every record is there"}, _AGAIN)
    _check_manifest(output, expected.manifest, counts, found)
    _check_quarantine(output, found)
    sizes = {file.path: file.size for file in storage.list_files(storage.join(output, "data"))}
    shown = ("records_in", "records_written", "records_quarantined", "images")
    size = sum(sizes[path] for path in found)
    return {"output": output, "whole": True, "files": len(found), "bytes": size, **{name: counts[name] for name in shown}}


def _expected(output: str) -> _Expected:
    work = storage.join(output, WORK)
    encoder = storage.join(work, "encoder.json")
    if storage.exists(storage.join(output, MANIFEST)):
        manifest, _ = read_manifest(output)
        kind = manifest.get("config", {}).get("records", {}).get("kind")
        records, keys_hash = manifest["records_in"], manifest.get("keys_hash")
        return _Expected(data_files(output), columns_of(manifest), kind == "d3", manifest, records, keys_hash)
    if not storage.exists(encoder):
        raise ValueError(f"{output} holds no embedding, neither a finished one nor one that goes on; see embed.output")
    if planned(output) is not None:
        going_on = {"data/": "is being rewritten to files of embed.file_mib, and that was stopped"}
        _refuse(output, going_on, "start the embedding again by its own command, which goes on with it")
    described = storage.read_json(encoder, {"features": dict}, way_out=f"delete {output} to embed again")
    keys = read_table(storage.join(work, "index.parquet"), ["key"])["key"].to_pylist()
    files, left = split_committed(output)
    if left:
        logger.info("%d files were never committed and are left out; the next start deletes them", len(left))
    return _Expected(files, columns_of(described), False, None, len(keys), hash_of_keys(hash_strings(keys)))


def _read_files(expected: _Expected) -> tuple[dict[str, FileContent], dict[str, str]]:
    """By path, what the sound files hold, and what is wrong with the others."""
    check = functools.partial(_checked, columns=expected.columns, d3=expected.d3)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        read = logged(pool.map(check, expected.files), total=len(expected.files), what="files of features read back")
        results = dict(zip(expected.files, read, strict=True))
    sound = {path: result for path, result in results.items() if isinstance(result, FileContent)}
    return sound, {path: flaw for path, flaw in results.items() if isinstance(flaw, str)}


def _checked(path: str, columns: dict[str, Column], d3: bool) -> FileContent | str:
    try:
        return check_file(path, columns, d3=d3)
    except FlawError as flaw:
        return str(flaw)


def _refuse(output: str, faults: dict[str, str], way_out: str) -> NoReturn:
    """Log the faults and raise the first; each is a thing and what is wrong with it."""
    lines = [f"{thing} {flaw}" for thing, flaw in faults.items()]
    for line in lines[:_SHOWN]:
        logger.error("%s", line)
    if len(lines) > _SHOWN:
        logger.error("and %d more", len(lines) - _SHOWN)
    more = f" (the first of {len(lines)} faults)" if len(lines) > 1 else ""
    raise RuntimeError(f"{output} is not whole: {lines[0]}{more}; {way_out}")


def _check_keys(output: str, expected: _Expected, found: dict[str, FileContent]) -> None:
    """Every record once, and exactly those of the index."""
    keys, ids = (_joined(found, name) for name in ("keys", "record_ids"))
    distinct, times = np.unique(keys, return_counts=True)
    if (twice := distinct[times > 1]).size:
        holders = [path for path, content in found.items() if np.isin(content.keys, twice).any()]
        what = f"holds {len(twice)} records more than once, in {' and '.join(holders[:2])}"
        _refuse(output, {"data/": what}, f"delete one of these files and {_AGAIN}")
    if len(np.unique(ids)) < len(ids):
        _refuse(output, {"data/": "holds two records of one id"}, f"delete {output} to embed again")
    wanted = expected.keys_hash or hash_of_keys(keys)  # old manifests do not say
    if len(keys) < expected.records:
        _refuse(output, {"data/": f"lacks {expected.records - len(keys)} of {expected.records} records"}, _AGAIN)
    if len(keys) > expected.records or wanted != hash_of_keys(keys):
        _refuse(output, {"data/": "holds other records than the index"}, f"delete {output} to embed again")


def _joined(found: dict[str, FileContent], name: str) -> np.ndarray:
    """``(n,)`` uint64: the hashes of all files."""
    return np.concatenate([np.empty(0, dtype=np.uint64), *(getattr(content, name) for content in found.values())])


def _check_manifest(output: str, manifest: dict[str, Any], counts: dict[str, Any], found: dict[str, FileContent]) -> None:
    """Every number that the manifest says of the records."""
    images = pa.concat_tables(content.images for content in found.values())
    there = counts | {"repeated_images": repeated_images(images), "caption_cosines": cosine_quantiles(images)}
    wrong = {
        f"{MANIFEST}: {name}": f"is {manifest[name]!r} and the files hold {value!r}"
        for name, value in there.items()
        if name in manifest and manifest[name] != value
    }
    if wrong:
        _refuse(output, wrong, f"put the manifest back that was there, or delete {output}/quarantine and {_DERIVED_ANEW}")


def _check_quarantine(output: str, found: dict[str, FileContent]) -> None:
    """What the quarantine lists is what was rejected."""
    place = quarantine_of(output)
    derived = np.sort(_joined(found, "rejected"))
    try:
        listed = np.sort(hash_of_rows(read_table(place)))
        flaw = None if np.array_equal(listed, derived) else f"does not list the {len(derived)} records that were rejected"
    except RuntimeError as error:
        flaw = f"can not be read ({error.__cause__})"
    if flaw is not None:
        _refuse(output, {place: flaw}, f"delete it and {_DERIVED_ANEW}")
