"""Feature sets of any size, in the layout of jobs/embed.py."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.feature_names import TEXTS
from rdd.schema import features_schema

ENCODER = {
    "model": "synthetic",
    "pretrained": "none",
    "weights_sha256": hashlib.sha256(b"synthetic").hexdigest(),
    "embed_dim": 768,
    "quick_gelu": True,
    "normalized": False,
    "has_text": True,
    "preprocessing": {"size": 224},
}


def write_features(folder: Path, *, records: int, images: int, width: int = 768, shift: float = 0.05) -> str:
    """Records of one real image and generated ones that are shifted by ``shift`` standard deviations in every column."""
    rng = np.random.default_rng(0)
    generators = ["real", *[f"gen-{i}" for i in range(images - 1)]]
    schema, named = features_schema(["projected"]), ("projected", *TEXTS)
    options = {"compression": {n: "none" if n in named else "zstd" for n in schema.names}, "use_dictionary": False}
    for start in range(0, records, 1000):
        count = min(1000, records - start)
        seen = rng.standard_normal((count, images, width), dtype=np.float32)
        seen[:, 1:] += shift
        texts = rng.standard_normal((2, count, width), dtype=np.float32).astype("<f2")
        columns = {
            "record_id": [f"id-{start + i:08d}" for i in range(count)],
            "generators": [generators] * count,
            "projected": [row.tobytes() for row in seen.astype("<f2")],
            "text_original": [row.tobytes() for row in texts[0]],
            "text_positive": [row.tobytes() for row in texts[1]],
        }
        table = pa.table({n: pa.array(columns.get(n, [None] * count), schema.field(n).type) for n in schema.names})
        storage.write_table(str(folder / "data" / f"{start:08d}.parquet"), table.cast(schema), **options)
    manifest = {"embed_dim": width, "text": True, "records_written": records, "images": records * images}
    manifest["features"] = {name: {"width": width, "dtype": "float16"} for name in named}
    storage.write_json(str(folder / "manifest.json"), manifest | {"encoder": ENCODER | {"embed_dim": width}})
    return str(folder)
