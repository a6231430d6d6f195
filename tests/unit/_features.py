"""A small finished embedding, whose features tell where they belong."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.schema import FEATURES

D = 8


def write_features(folder: Path, rows: list[dict], *, text: bool = True, per_file: int = 7) -> str:
    """A finished embedding of some rows, in the layout of jobs/embed.py."""
    for start in range(0, len(rows), per_file):
        full = [{name: row.get(name) for name in FEATURES.names} for row in rows[start : start + per_file]]
        storage.write_table(str(folder / "data" / f"{start:05d}.parquet"), pa.Table.from_pylist(full, schema=FEATURES))
    written = sum(row.get("reason") is None for row in rows)
    images = sum(len(row["generators"]) for row in rows if row.get("reason") is None)
    manifest = {"embed_dim": D, "dtype": "float16", "text": text, "records_written": written, "images": images}
    storage.write_json(str(folder / "manifest.json"), manifest | {"encoder": {"embed_dim": D}})
    return str(folder)


def feature_rows(number: int, *, text: bool = True, rejected: int = 3) -> list[dict]:
    """Records of 2 to 5 images whose features tell where they belong; some rejected."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(number):
        generators = ["real", *[f"gen-{k}" for k in range(1 + i % 4)]]
        vectors = np.full((len(generators), D), i, dtype="<f2")
        vectors[:, 1] = np.arange(len(generators))
        prompts = {
            f"text_{name}": np.full(D, i + add, "<f2").tobytes() for name, add in (("original", 0.25), ("positive", 0.5))
        }
        row = {"record_id": f"r{i:04d}", "generators": generators, "image_features": vectors.tobytes()}
        rows.append(row | (prompts if text else {}))
    rows += [{"record_id": None, "stage": "index", "reason": "null_id"}] * rejected
    return [rows[i] for i in rng.permutation(len(rows))]
