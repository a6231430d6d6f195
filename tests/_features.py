"""A small finished embedding, whose features tell where they belong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.feature_names import TEXTS, split_view
from rdd.schema import features_schema

D, W = 8, 12
WIDTHS = {"projected": D, "block_2": W, "block_5": W}
DTYPES = {"projected": "<f2", "block_2": "<f2", "block_5": "<f4"}


def write_features(
    folder: Path,
    rows: list[dict],
    *,
    text: bool = True,
    per_file: int = 7,
    names: Sequence[str] = ("projected",),
    first_layout: bool = False,
) -> str:
    """A finished embedding of some rows, in the layout of jobs/embed.py, or in its first one."""
    if first_layout:
        rows = [{"image_features" if name == "projected" else name: value for name, value in row.items()} for row in rows]
    schema = features_schema(["image_features"] if first_layout else names)
    for start in range(0, len(rows), per_file):
        full = [{name: row.get(name) for name in schema.names} for row in rows[start : start + per_file]]
        storage.write_table(str(folder / "data" / f"{start:05d}.parquet"), pa.Table.from_pylist(full, schema=schema))
    written = sum(row.get("reason") is None for row in rows)
    images = sum(len(row["generators"]) for row in rows if row.get("reason") is None)
    manifest = {"embed_dim": D, "text": text, "records_written": written, "images": images, "encoder": {"embed_dim": D}}
    if first_layout:
        manifest["dtype"] = "float16"
    else:
        manifest["features"] = manifest_features(
            {name: WIDTHS[split_view(name)[0]] for name in names}, text=D if text else None
        )
    storage.write_json(str(folder / "manifest.json"), manifest)
    return str(folder)


def manifest_features(widths: dict[str, int], *, text: int | None = None) -> dict:
    """What a manifest says of features of some widths, and of prompts of another."""
    kinds = {"<f2": "float16", "<f4": "float32"}
    of_images = {
        name: {"width": width, "dtype": kinds[DTYPES.get(split_view(name)[0], "<f2")]} for name, width in widths.items()
    }
    return of_images | ({name: {"width": text, "dtype": "float16"} for name in TEXTS} if text else {})


def feature_rows(number: int, *, text: bool = True, rejected: int = 3) -> list[dict]:
    """Records of 2 to 5 images whose features tell where they belong; some rejected.

    The first column of a feature is the record's number, with the block's in hundreds, the second the image's.
    """
    rng = np.random.default_rng(0)
    rows = []
    for i in range(number):
        generators = ["real", *[f"gen-{k}" for k in range(1 + i % 4)]]
        row = {"record_id": f"r{i:04d}", "generators": generators}
        for name, width in WIDTHS.items():
            block = 0 if name == "projected" else int(name.removeprefix("block_"))
            vectors = np.full((len(generators), width), i + 100 * block, dtype=DTYPES[name])
            vectors[:, 1] = np.arange(len(generators))
            row[name] = vectors.tobytes()
        prompts = {
            f"text_{name}": np.full(D, i + add, "<f2").tobytes() for name, add in (("original", 0.25), ("positive", 0.5))
        }
        rows.append(row | (prompts if text else {}))
    rows += [{"record_id": None, "stage": "index", "reason": "null_id"}] * rejected
    return [rows[i] for i in rng.permutation(len(rows))]


def with_views(rows: list[dict], names: Sequence[str]) -> list[dict]:
    """The rows with the named features of views: those of view n are the image's, divided by n + 1."""

    def of_view(row: dict, stored: str) -> bytes:
        name, view = split_view(stored)
        return (np.frombuffer(row[name], DTYPES[name]) / (1 + view)).astype(DTYPES[name]).tobytes()

    return [row | ({name: of_view(row, name) for name in names} if row.get("reason") is None else {}) for row in rows]
