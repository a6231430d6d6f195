"""What an embedding that was stopped goes on from: its index, its encoder, and the records that are committed."""

import json
import logging
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa

from rdd import storage
from rdd.embedding.stored import Stored
from rdd.encoder_identity import EncoderIdentity

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
    elif not read_table(index_path).equals(index):
        raise RuntimeError(f"the records have changed since the embedding began; delete {output} to begin again")
    elif (before := storage.read_json(encoder_path, dict, way_out=f"delete {output} to begin again")) != described:
        changed = [name for name in described if before.get(name) != described[name]]
        what = ", ".join(f"{name} {before.get(name)!r} then and {described[name]!r} now" for name in changed)
        raise RuntimeError(f"the encoder has changed since the embedding began ({what}); delete {output} to begin again")


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns."""
    return storage.read_table(path, columns, way_out="delete the output directory to embed again")


def _commits(output: str) -> list[str]:
    """Ray Data's checkpoint files of committed data files; the name of each is the first part of its data file's name."""
    folder = storage.join(output, WORK, "checkpoint")
    files = storage.list_files(folder, suffix=".parquet") if storage.exists(folder) else []
    return [file.path for file in files if not file.path.endswith(".pending.parquet")]


def committed_keys(output: str) -> pa.Array:
    """Keys of the records that earlier runs have committed."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        keys = list(pool.map(lambda path: read_table(path)["key"].combine_chunks(), _commits(output)))
    return pa.concat_arrays(keys) if keys else pa.array([], pa.string())


def committed_files(output: str) -> list[str]:
    """The committed data files; any other, which a killed run has left, is deleted."""
    names = {posixpath.basename(path).removesuffix(".parquet") for path in _commits(output)}
    kept = []
    for file in storage.list_files(storage.join(output, "data"), suffix=".parquet"):
        if posixpath.basename(file.path).rsplit("-", 1)[0] in names:
            kept.append(file.path)
        else:
            logger.info("deleting %s, which was never committed", file.path)
            storage.delete_file(file.path)
    return kept
