"""The directory that an embedding writes: its index, what is committed, the final check, quarantine and manifest."""

import json
import logging
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rdd import storage
from rdd.config import Config
from rdd.embedding.caption_cosine import cosine_quantiles, with_cosines
from rdd.embedding.conflicts import conflicting_hashes, reject_conflicting, repeated_images
from rdd.embedding.resume import READ_THREADS, committed_files, hash_of_keys, read_table
from rdd.embedding.stored import features_of_views, stored_features
from rdd.encoder_identity import EncoderIdentity
from rdd.feature_names import TEXTS
from rdd.hashing import hash_strings
from rdd.progress import logged
from rdd.schema import NUM_GENERATED, QUARANTINE, features_schema

logger = logging.getLogger(__name__)

_ALL_DIFFERENT = ("key", "record_id", "caption_cosines")


def parquet_options(config: Config) -> dict[str, Any]:
    """Feature columns plain, since noise does not compress, but with checksums; names, widths and dtypes in the schema."""
    of_images = features_of_views(config.clip.features, config.embed.views)
    schema = features_schema(of_images)
    plain = {*of_images, *TEXTS}
    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    leaves = {name: f"{name}.list.element" if name in lists else name for name in schema.names}
    return {
        "schema": schema.with_metadata({"features": json.dumps(stored_features(config))}),
        "compression": {leaf: "none" if name in plain else "zstd" for name, leaf in leaves.items()},
        "write_page_checksum": True,
        "use_dictionary": [leaf for name, leaf in leaves.items() if name not in (*plain, *_ALL_DIFFERENT)],
    }


def check(config: Config, index: pa.Table, output: str, compacted: Collection[str] = ()) -> dict[str, pa.Table]:
    """Check that every record is there once and no image under both labels, and derive the quarantine.

    Args:
        config: of the embedding.
        index: the records (``schema.INDEX``).
        output: its directory.
        compacted: names of the files that those of the commits have been rewritten to.

    Returns:
        By path of each file, what it holds of its records besides their features.

    Raises:
        RuntimeError: a record is missing or there twice; or none, or less than the config asks for, could be embedded.
    """
    files = committed_files(output, compacted)
    tables = read_described(files)
    table = pa.concat_tables(tables.values())
    if len(hashes := conflicting_hashes(_with_those_beside(table, config.embed.beside))):
        options = parquet_options(config)
        reject_conflicting(tables, hashes, {name: value for name, value in options.items() if name != "schema"})
        tables = read_described(files)
        table = pa.concat_tables(tables.values())
    if not table["key"].combine_chunks().sort().equals(index["key"].combine_chunks().sort()):
        raise RuntimeError(
            f"{output}/data holds {table.num_rows} rows ({len(pc.unique(table['key']))} distinct) for {index.num_rows} "
            f"records, which must not happen; delete {output} and embed again"
        )
    quarantine = quarantine_of(output)
    storage.write_table(quarantine, quarantined(table).sort_by([("source", "ascending"), ("row", "ascending")]))
    counts = counts_of(table, d3=config.records.kind == "d3")
    share = counts["records_quarantined"] / table.num_rows
    if share > config.embed.max_quarantined_share:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts["quarantined"].items())
        raise RuntimeError(
            f"{counts['records_quarantined']} of {table.num_rows} records were quarantined ({reasons}), more than "
            f"embed.max_quarantined_share = {config.embed.max_quarantined_share:g}; they are listed in {quarantine}, "
            "and a larger share finishes without embedding again"
        )
    if not counts["records_written"]:
        raise RuntimeError(f"no record could be embedded; they are listed in {quarantine}")
    return tables


def describe(config: Config, tables: Mapping[str, pa.Table], encoder: EncoderIdentity) -> dict[str, Any]:
    """The manifest of a whole embedding.

    Args:
        config: of the embedding.
        tables: of :func:`check`.
        encoder: which one.
    """
    table = pa.concat_tables(tables.values())
    return {
        "id": uuid.uuid4().hex,  # two embeddings of one config are not the same bytes
        "encoder": asdict(encoder),
        "embed_dim": encoder.embed_dim,
        "features": stored_features(config),
        "text": config.embed.text,
        **counts_of(table, d3=config.records.kind == "d3"),
        "repeated_images": repeated_images(table),
        "caption_cosines": cosine_quantiles(table.filter(pc.is_null(table["reason"]))),
        "keys_hash": hash_of_keys(hash_strings(table["key"].to_pylist())),
        "versions": {name: version(name) for name in ("rdd", "open_clip_torch", "torch", "pillow", "pyarrow", "ray")},
        "config": {name: asdict(getattr(config, name)) for name in ("records", "clip", "embed")},
    }


def _with_those_beside(table: pa.Table, paths: list[str]) -> pa.Table:
    """Generators and hashes of all images, with those of the feature sets that this one grows beside."""
    if not paths:
        return table
    from rdd.embedding.beside import described_beside  # and with it torch

    return pa.concat_tables([table.select(["generators", "content_hashes"]), described_beside(paths)])


def quarantine_of(output: str) -> str:
    """File with the records that were rejected."""
    return storage.join(output, "quarantine", "quarantine.parquet")


def quarantined(table: pa.Table) -> pa.Table:
    """The rejected ones of some records (:data:`rdd.schema.QUARANTINE`)."""
    return table.filter(pc.is_valid(table["reason"])).select(QUARANTINE.names).cast(QUARANTINE)


def counts_of(table: pa.Table, *, d3: bool) -> dict[str, Any]:
    """What the manifest counts of some records; the counts of two sets of records add up to those of both.

    Args:
        table: ``generators``, ``prompts_cut`` and ``reason`` of each.
        d3: whether each should have a real image and all generated ones of D3.
    """
    written = table.filter(pc.is_null(table["reason"]))
    reasons = pc.value_counts(table["reason"].drop_null()).to_pylist()
    images = pc.sum(pc.list_value_length(written["generators"])).as_py() or 0
    return {
        "records_in": table.num_rows,
        "records_written": written.num_rows,
        "records_quarantined": table.num_rows - written.num_rows,
        "quarantined": {entry["values"]: entry["counts"] for entry in sorted(reasons, key=lambda entry: entry["values"])},
        "images": images,
        "generated_images_missing": (1 + NUM_GENERATED) * written.num_rows - images if d3 else 0,
        "prompts_cut": pc.sum(written["prompts_cut"]).as_py() or 0,
    }


def read_described(files: list[str]) -> dict[str, pa.Table]:
    """By file, what it holds of its records besides their features."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        tables = pool.map(_read_described, files)
        return dict(zip(files, logged(tables, total=len(files), what="files of features checked"), strict=True))


def _read_described(path: str) -> pa.Table:
    names = ["key", "record_id", "source", "row", "generators", "content_hashes", "prompts_cut", "caption_cosines"]
    names += ["stage", "reason", "detail"]
    return with_cosines(read_table(path, names, optional=("caption_cosines",))).select(names)


def summarize(output: str, manifest: dict[str, Any]) -> dict[str, Any]:
    """What the job reports of a finished embedding."""
    records = ("records_in", "records_written", "records_quarantined", "quarantined")
    names = (*records, "images", "generated_images_missing", "repeated_images", "prompts_cut", "caption_cosines", "embed_dim")
    return {"output": output, **{name: manifest[name] for name in names if name in manifest}}
