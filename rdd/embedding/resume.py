"""What an embedding that was stopped goes on from: its index, its encoder, and the records that are committed."""

import json
import logging
import posixpath
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.embedding.stored import Stored
from rdd.encoder_identity import EncoderIdentity
from rdd.hashing import sha256_bytes

logger = logging.getLogger(__name__)

READ_THREADS = 16
"""Of small files on S3: latency, not bandwidth."""

WORK = ".work"
"""Folder of an output with the index and Ray Data's checkpoint, gone when the embedding is finished."""


def keep_index(index: pa.Table, encoder: EncoderIdentity, features: Stored, output: str) -> None:
    """Keep the index, the encoder and the features that an embedding began with; a started-again run must come with the same.

    Raises:
        RuntimeError: the records or the encoder have changed since.
    """
    index_path, encoder_path = (storage.join(output, WORK, name) for name in ("index.parquet", "encoder.json"))
    described = json.loads(json.dumps(asdict(encoder) | {"features": features}))
    if not storage.exists(encoder_path):
        storage.write_table(index_path, index)
        storage.write_json(encoder_path, described)
        return
    check_index(index, output)
    if (before := storage.read_json(encoder_path, dict, way_out=f"delete {output} to begin again")) != described:
        changed = [name for name in described if before.get(name) != described[name]]
        what = ", ".join(f"{name} {before.get(name)!r} then and {described[name]!r} now" for name in changed)
        raise RuntimeError(f"the encoder has changed since the embedding began ({what}); delete {output} to begin again")


def check_index(index: pa.Table, output: str, *, what: str = "embedding") -> None:
    """Refuse other records than those that an embedding, or what else runs as one does, began with, if one has begun.

    Raises:
        RuntimeError: the records have changed since.
    """
    place = storage.join(output, WORK, "index.parquet")
    if storage.exists(place) and not read_table(place).equals(index):
        raise RuntimeError(f"the records have changed since the {what} began; delete {output} to begin again")


def read_table(path: str, columns: list[str] | None = None, *, optional: Collection[str] = ()) -> pa.Table:
    """A Parquet file, or some of its columns, of which it may lack those that are optional."""
    return storage.read_table(path, columns, optional=optional, way_out="delete the output directory to begin again")


def read_tables(paths: Iterable[str], columns: list[str] | None = None) -> list[pa.Table]:
    """Some Parquet files, or some of their columns, read side by side."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return list(pool.map(lambda path: read_table(path, columns), paths))


def commit_of(path: str) -> str:
    """Name of the commit that a data file belongs to."""
    return posixpath.basename(path).rsplit("-", 1)[0]


def data_files(output: str) -> list[str]:
    """The files with features of an embedding, finished or not, sorted."""
    folder = storage.join(output, "data")
    return [file.path for file in storage.list_files(folder, suffix=".parquet")] if storage.exists(folder) else []


_PENDING = ".pending"
"""Ends the name of a checkpoint file whose data file may be torn; the second phase of a commit takes it off."""


def _checkpoint_files(output: str) -> dict[str, str]:
    """Ray Data's checkpoint files by name, which is the first part of its data file's name."""
    folder = storage.join(output, WORK, "checkpoint")
    files = storage.list_files(folder, suffix=".parquet") if storage.exists(folder) else []
    return {posixpath.basename(file.path).removesuffix(".parquet"): file.path for file in files}


def _commits(output: str) -> dict[str, str]:
    """By name of a commit, the checkpoint file of it."""
    return {name: path for name, path in _checkpoint_files(output).items() if not name.endswith(_PENDING)}


def settle_commits(output: str) -> None:
    """End the commits that a killed run had all but ended.

    An object store renames by a copy and a deletion. Between them a checkpoint file stands under both names, and Ray Data,
    which takes it for pending, would delete a data file whose records count as done.
    """
    files = _checkpoint_files(output)
    for name, path in files.items():
        if name.endswith(_PENDING) and name.removesuffix(_PENDING) in files:
            storage.delete_file(path)


def committed_keys(output: str) -> pa.Array:
    """Keys of the records that earlier runs have committed; of a commit whose data file was deleted, none."""
    there = set(map(commit_of, data_files(output)))
    paths = [path for name, path in _commits(output).items() if name in there]
    keys = [table["key"].combine_chunks() for table in read_tables(paths)]
    return pa.concat_arrays(keys) if keys else pa.array([], pa.string())


def split_committed(output: str, compacted: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """The data files of an embedding that is not finished: those committed, and any other, which a killed run has left.

    Args:
        output: directory of the embedding.
        compacted: names of the files that those of the commits have been rewritten to.
    """
    commits, kept, left = _commits(output), list[str](), list[str]()
    for path in data_files(output):
        is_kept = posixpath.basename(path) in compacted or commit_of(path) in commits
        (kept if is_kept else left).append(path)
    return kept, left


def committed_files(output: str, compacted: Collection[str] = ()) -> list[str]:
    """The committed data files; any other is deleted, see :func:`split_committed`."""
    kept, left = split_committed(output, compacted)
    for path in left:
        logger.info("deleting %s, which was never committed", path)
        storage.delete_file(path)
    return kept


def hash_of_keys(hashes: np.ndarray) -> str:
    """One hash of a set of keys, whatever their order.

    Args:
        hashes: ``(n,)`` uint64, of each key (:func:`rdd.hashing.hash_strings`).
    """
    return sha256_bytes(np.sort(hashes).astype("<u8").tobytes())
