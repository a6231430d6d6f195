"""A finished embedding that has lost a file goes on: what is missing is embedded again, and nothing else.

Whoever finds a damaged file (``jobs/embed.py --verify`` names it) deletes it and starts the same command again. The manifest
then claims more than the files hold, so the directory is given back the state of an embedding that was stopped.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdd import storage
from rdd.embedding.output import quarantine_of
from rdd.embedding.resume import READ_THREADS, WORK, commit_of, data_files, hash_of_keys, read_table
from rdd.hashing import hash_strings

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def has_lost_files(output: str, manifest: dict[str, Any]) -> bool:
    """Whether a finished embedding holds fewer rows than its manifest says, or no quarantine; reads the ends of its files.

    Raises:
        RuntimeError: a file can not be read; it and the way out are named.
    """
    with ThreadPoolExecutor(READ_THREADS) as pool:
        rows = sum(pool.map(_num_rows, data_files(output)))
    if lost := max(0, manifest["records_in"] - rows):
        logger.warning("%d of %d records are in no file of %s: it goes on", lost, manifest["records_in"], output)
    return lost > 0 or not storage.exists(quarantine_of(output))


def reopen(index: pa.Table, output: str) -> None:
    """Make a finished embedding one that was stopped, with all that its files hold committed; of any other, do nothing.

    The manifest goes last, so that a kill in between leaves a finished embedding, which is reopened anew.

    Args:
        index: of all records, as they are now.
        output: directory of the embedding.

    Raises:
        RuntimeError: the records are not those that were embedded.
    """
    place = storage.join(output, MANIFEST)
    if not storage.exists(place):
        return
    anew = f"delete {output} to begin again"
    manifest = storage.read_json(place, {"encoder": dict, "records_in": int}, way_out=anew)
    keys = hash_of_keys(hash_strings(index["key"].to_pylist()))
    if manifest["records_in"] != index.num_rows or manifest.get("keys_hash", keys) != keys:
        raise RuntimeError(f"the records have changed since {output} was finished; {anew}")
    work = storage.join(output, WORK)
    storage.delete_directory(work)
    commits: dict[str, list[str]] = {}
    for path in data_files(output):
        commits.setdefault(commit_of(path), []).append(path)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        list(pool.map(lambda name: _commit(storage.join(work, "checkpoint", f"{name}.parquet"), commits[name]), commits))
    storage.write_table(storage.join(work, "index.parquet"), index)
    encoder = manifest["encoder"] | {"features": manifest.get("features")}
    storage.write_json(storage.join(work, "encoder.json"), encoder)
    storage.delete_file(place)


def _commit(checkpoint: str, paths: Iterable[str]) -> None:
    """Note, as Ray Data does, that the records of some data files are committed."""
    storage.write_table(checkpoint, pa.concat_tables(read_table(path, ["key"]) for path in paths))


def _num_rows(path: str) -> int:
    try:
        with storage.open_input(path) as file:
            return pq.ParquetFile(file).metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise RuntimeError(
            f"{path} can not be read ({' '.join(str(error).split())}); if it is damaged, delete it and start the same command "
            "again, which embeds its records anew"
        ) from error
