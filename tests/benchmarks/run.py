"""Benchmarks: ratios of two sides, alternated in one run. Prints a table and writes JSON.

python tests/benchmarks/run.py [--output bench.json]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from rdd import storage
from rdd.features import FeatureTable, global_batches
from rdd.schema import FEATURE_COLUMNS, FEATURES

ROUNDS = 7
RECORDS, IMAGES, WIDTH = 10_000, 5, 768


@dataclass(frozen=True)
class Figure:
    """One measured ratio and the bar that it has to reach."""

    name: str
    value: float
    bar: str
    unit: str = "ratio"


def alternate(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median time of ``theirs`` over that of ``ours``: how many times as fast ours is."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):  # the first warms up
        for side, work in zip(times, (ours, theirs), strict=True):
            started = time.perf_counter()
            work()
            side.append(time.perf_counter() - started)
    return statistics.median(times[1][1:]) / statistics.median(times[0][1:])


def write_features(folder: Path) -> None:
    """Features of the size and layout of a hundredth part of D3's."""
    rng = np.random.default_rng(0)
    generators = ["real", *[f"gen-{i}" for i in range(IMAGES - 1)]]
    options = {"compression": {n: "none" if n in FEATURE_COLUMNS else "zstd" for n in FEATURES.names}, "use_dictionary": False}
    for start in range(0, RECORDS, 1000):
        images = rng.standard_normal((1000, IMAGES * WIDTH), dtype=np.float32).astype("<f2")
        texts = rng.standard_normal((2, 1000, WIDTH), dtype=np.float32).astype("<f2")
        rows = [
            {
                "record_id": f"id-{start + i}",
                "generators": generators,
                "image_features": images[i].tobytes(),
                "text_original": texts[0, i].tobytes(),
                "text_positive": texts[1, i].tobytes(),
            }
            for i in range(1000)
        ]
        table = pa.Table.from_pylist([{n: row.get(n) for n in FEATURES.names} for row in rows], schema=FEATURES)
        storage.write_table(str(folder / "data" / f"{start}.parquet"), table, **options)
    storage.write_json(str(folder / "manifest.json"), {"embed_dim": WIDTH, "text": True, "records_written": RECORDS})


def feature_figures(folder: Path) -> list[Figure]:
    """Loading the table, and batches out of it."""
    write_features(folder)
    table = FeatureTable.load(str(folder))
    plain = folder / "plain.bin"
    np.concatenate([t.numpy().ravel() for t in (table.image_features, table.text_original, table.text_positive)]).tofile(plain)
    loading = alternate(lambda: FeatureTable.load(str(folder)), lambda: np.fromfile(plain, dtype="<f2"))
    batches = global_batches(torch.arange(len(table)), seed=0, epoch=0, batch_size=2048)
    dense = torch.cat([table.image_features.float(), table.text_original.float().repeat_interleave(IMAGES, 0)], dim=1)
    gathering = alternate(
        lambda: [table.gather(batch, "shared") for batch in batches],
        lambda: [dense.index_select(0, batch) for batch in batches],
    )
    return [
        Figure("loading features: bytes/s over np.fromfile", loading, "at least 0.2"),
        Figure("batches/s of the table over a float32 index_select", gathering, "at least 1.2"),
    ]


def import_figure() -> Figure:
    """Seconds of ``import rdd`` beyond an empty interpreter."""

    def interpreter(code: str) -> float:
        times = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    return Figure("import rdd beyond an empty interpreter", interpreter("import rdd") - interpreter(""), "at most 0.3", "s")


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default="runs/bench.json", help="JSON file to write")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        figures = [*feature_figures(Path(folder)), import_figure()]
    for figure in figures:
        print(f"{figure.name:<55} {figure.value:8.3f} {figure.unit:<6} ({figure.bar})")
    storage.write_json(output, [asdict(figure) for figure in figures])
    print(f"written to {output}")


if __name__ == "__main__":
    main()
