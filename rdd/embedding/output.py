"""The directory that an embedding writes: its index, what is committed, the final check, quarantine and manifest."""

import json
import logging
import posixpath
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdd import storage
from rdd.clip import EncoderIdentity
from rdd.config import Config
from rdd.progress import logged
from rdd.schema import FEATURE_COLUMNS, FEATURES, QUARANTINE

logger = logging.getLogger(__name__)

WORK = ".work"
"""Folder of an output with the index and Ray Data's checkpoint, gone when the embedding is finished."""

_READ_THREADS = 16  # of small files on S3: latency, not bandwidth


def keep_index(index: pa.Table, encoder: EncoderIdentity, output: str) -> None:
    """Keep the index and the encoder that an embedding began with; a started-again run must come with the same.

    Raises:
        RuntimeError: the records or the encoder have changed since.
    """
    index_path, encoder_path = (storage.join(output, WORK, name) for name in ("index.parquet", "encoder.json"))
    described = json.loads(json.dumps(asdict(encoder)))
    if not storage.exists(encoder_path):
        storage.write_table(index_path, index)
        storage.write_json(encoder_path, described)
    elif not _read_table(index_path).equals(index):
        raise RuntimeError(f"the records have changed since the embedding began; delete {output} to begin again")
    elif (before := storage.read_json(encoder_path)) != described:
        changed = [name for name in before if before[name] != described[name]]
        what = ", ".join(f"{name} {before[name]!r} then and {described[name]!r} now" for name in changed)
        raise RuntimeError(f"the encoder has changed since the embedding began ({what}); delete {output} to begin again")


def _read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    fs, inner = storage.filesystem(path)
    with fs.open_input_file(inner) as file:
        return pq.ParquetFile(file).read(columns=columns)


def _commits(output: str) -> list[str]:
    """Ray Data's records of files whose second phase is done; each is named as its file begins."""
    folder = storage.join(output, WORK, "checkpoint")
    files = storage.list_files(folder, suffix=".parquet") if storage.exists(folder) else []
    return [file.path for file in files if not file.path.endswith(".pending.parquet")]


def committed_keys(output: str) -> pa.Array:
    """Keys of the records that earlier runs have committed."""
    keys = [_read_table(path)["key"].combine_chunks() for path in _commits(output)]
    return pa.concat_arrays(keys) if keys else pa.array([], pa.string())


def _committed_files(output: str) -> list[str]:
    """Data files of commits; what a dying worker of a killed run wrote without one is deleted."""
    names = {posixpath.basename(path).removesuffix(".parquet") for path in _commits(output)}
    kept = []
    for file in storage.list_files(storage.join(output, "data"), suffix=".parquet"):
        if posixpath.basename(file.path).rsplit("-", 1)[0] in names:
            kept.append(file.path)
        else:
            logger.info("deleting %s, which was never committed", file.path)
            storage.delete_file(file.path)
    return kept


def parquet_options(encoder: EncoderIdentity) -> dict[str, Any]:
    """Feature columns plain, since noise does not compress; width and dtype in the schema."""
    lists = {field.name for field in FEATURES if pa.types.is_list(field.type)}
    leaves = {name: f"{name}.list.element" if name in lists else name for name in FEATURES.names}
    return {
        "schema": FEATURES.with_metadata({"embed_dim": str(encoder.embed_dim), "dtype": "float16"}),
        "compression": {leaf: "none" if name in FEATURE_COLUMNS else "zstd" for name, leaf in leaves.items()},
        "use_dictionary": [leaf for name, leaf in leaves.items() if name not in (*FEATURE_COLUMNS, "key", "record_id")],
    }


def finish(config: Config, index: pa.Table, output: str, encoder: EncoderIdentity) -> dict[str, Any]:
    """Check that every record is there once, derive the quarantine, and describe the whole."""
    columns = ["key", "record_id", "source", "row", "generators", "prompts_cut", "stage", "reason", "detail"]
    files = _committed_files(output)
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        tables = pool.map(lambda path: _read_table(path, columns), files)
        table = pa.concat_tables(logged(tables, total=len(files), what="files of features checked"))
    if sorted(table["key"].to_pylist()) != sorted(index["key"].to_pylist()):
        raise RuntimeError(
            f"{output}/data holds {table.num_rows} rows ({len(pc.unique(table['key']))} distinct) for {index.num_rows} "
            f"records, which must not happen; delete {output} and embed again"
        )
    rejected = table.filter(pc.is_valid(table["reason"])).sort_by([("source", "ascending"), ("row", "ascending")])
    quarantine = storage.join(output, "quarantine", "quarantine.parquet")
    storage.write_table(quarantine, rejected.select(QUARANTINE.names).cast(QUARANTINE))
    counts = pc.value_counts(rejected["reason"].combine_chunks())
    by_reason = {entry["values"]: entry["counts"] for entry in sorted(counts.to_pylist(), key=lambda entry: entry["values"])}
    share = rejected.num_rows / table.num_rows
    if share > config.embed.max_quarantined_share:
        reasons = ", ".join(f"{reason} {count}" for reason, count in by_reason.items())
        raise RuntimeError(
            f"{rejected.num_rows} of {table.num_rows} records were quarantined ({reasons}), more than "
            f"embed.max_quarantined_share = {config.embed.max_quarantined_share:g}; they are listed in {quarantine}, "
            "and a larger share finishes without embedding again"
        )
    written = table.filter(pc.is_null(table["reason"]))
    if not written.num_rows:
        raise RuntimeError(f"no record could be embedded; they are listed in {quarantine}")
    return {
        "id": uuid.uuid4().hex,  # two embeddings of one config are not the same bytes
        "encoder": asdict(encoder),
        "embed_dim": encoder.embed_dim,
        "dtype": "float16",
        "text": config.embed.text,
        "records_in": index.num_rows,
        "records_written": written.num_rows,
        "records_quarantined": rejected.num_rows,
        "quarantined": by_reason,
        "images": pc.sum(pc.list_value_length(written["generators"])).as_py(),
        "prompts_cut": pc.sum(written["prompts_cut"]).as_py(),
        "versions": {name: version(name) for name in ("rdd", "open_clip_torch", "torch", "pillow", "pyarrow", "ray")},
        "config": {name: asdict(getattr(config, name)) for name in ("records", "clip", "embed")},
    }


def summarize(output: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the job reports of a finished embedding."""
    names = ("records_in", "records_written", "records_quarantined", "quarantined", "images", "prompts_cut", "embed_dim")
    return {"output": output, **{name: manifest[name] for name in names}}
