"""A small feature set and the settings of a run that takes seconds."""

from pathlib import Path

import pyarrow as pa
import torch

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.schema import features_schema

EPOCHS = 15

ENCODER = {
    "model": "tiny",
    "pretrained": "tiny.safetensors",
    "weights_sha256": "0" * 64,
    "embed_dim": 8,
    "quick_gelu": False,
    "normalized": False,
    "has_text": False,
    "preprocessing": {"size": 32},
}


def write_small_features(
    folder: Path,
    *,
    seed: int = 0,
    generated: tuple[str, str] = ("easy", "hard"),
    shifts: tuple[float, float, float] = (0.0, 1.2, 0.6),
) -> Path:
    """A hundred records of a real image and one of each of two generators, features shifted so far; another seed, others."""
    generator = torch.Generator().manual_seed(seed)
    rows, schema = [], features_schema(["projected", "block_2"])
    for i in range(100):
        vectors = torch.randn(3, 8, generator=generator) + torch.tensor(shifts)[:, None]
        values = {
            "record_id": f"r{i}" if seed == 0 else f"r{i}-{seed}",
            "generators": ["real", *generated],
            "projected": vectors.half().numpy().tobytes(),
            "block_2": (vectors[:, 4:] + vectors[:, :4]).half().numpy().tobytes(),
        }
        rows.append({name: values.get(name) for name in schema.names})
    storage.write_table(str(folder / "data" / "a.parquet"), pa.Table.from_pylist(rows, schema=schema))
    manifest = {"embed_dim": 8, "text": False, "records_written": 100, "images": 300}
    manifest["features"] = {name: {"width": width, "dtype": "float16"} for name, width in (("projected", 8), ("block_2", 4))}
    storage.write_json(str(folder / "manifest.json"), manifest | {"encoder": ENCODER})
    return folder


def base_config(features: Path, tmp_path: Path) -> Config:
    return override(
        Config(),
        {
            "features.path": str(features),
            "features.text_mode": "none",
            "features.validation_share": 0.3,
            "features.test_share": 0.3,
            "model.hidden": 32,
            "train.output": str(tmp_path / "run"),
            "train.epochs": EPOCHS,
            "optimizer.lr": 3e-3,
            "train.batch_size": 32,
            "train.threads_per_worker": 1,
            "evaluate.resamples": 100,
            "scaling.num_workers": 0,
            "tracking.uri": f"sqlite:///{tmp_path}/mlflow.db",
            "cluster.address": "local",
        },
    )
