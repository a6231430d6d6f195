"""Loading the feature table, batches out of it, its memory, and the import of the package."""

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from measure import ROUNDS, Figure, seconds, times_as_fast
from synthetic import write_features

from rdd.features import FeatureTable, global_batches

IMAGES = 5

_TRAIN = """
import sys, torch
sys.path.insert(0, {here!r})
from training_steps import real_steps
torch.set_num_threads(1)
steps = real_steps({features!r}, maps={maps!r}, hidden=1536)
for _ in range(3):
    next(steps)
print(*[line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")])
"""


def feature_figures(folder: Path) -> list[Figure]:
    """A hundredth part of D3's features: 10,000 records."""
    path = write_features(folder / "features", records=10_000, images=IMAGES)
    table = FeatureTable.load(path)
    plain = folder / "plain.bin"
    with open(plain, "wb") as file:
        for matrix in table.matrices.values():
            matrix.numpy().tofile(file)
    loading = times_as_fast(lambda: FeatureTable.load(path), lambda: np.fromfile(plain, dtype="<f2"))
    batches = global_batches(torch.arange(len(table)), seed=0, epoch=0, batch_size=2048)
    everything = torch.arange(len(table))
    dense = table.gather(everything, "shared").features
    gathering = times_as_fast(
        lambda: [None for _ in table.batches(batches, "shared")],
        lambda: [dense.index_select(0, batch) for batch in batches],
        rounds=21,
    )
    return [
        Figure("loading features: bytes/s over np.fromfile", loading, at_least=0.2),
        Figure("batches/s of the table over a float32 index_select", gathering, at_least=1.2),
        Figure("private memory beyond a one-batch table over the features", _private_memory(folder, path), at_most=1.25),
    ]


def _private_memory(folder: Path, path: str) -> float:
    """Median of three: RssAnon of a training process on all features less that on one batch, over the size of the features."""
    small = write_features(folder / "one_batch", records=440, images=IMAGES)

    def rss_anon(features: str) -> int:
        code = _TRAIN.format(here=str(Path(__file__).parent), features=features, maps=str(folder / "maps"))
        printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
        return int(printed) * 1024

    pairs = [(rss_anon(path), rss_anon(small)) for _ in range(3)]
    return statistics.median(large - one for large, one in pairs) / _size(FeatureTable.load(path))


def _size(table: FeatureTable) -> int:
    return sum(matrix.nbytes for matrix in table.matrices.values())


def import_figure() -> Figure:
    """Seconds of ``import rdd`` beyond an empty interpreter; it must not import torch or ray."""
    forbidden = "import rdd, sys; assert not {'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", forbidden], check=True)
    times: dict[str, list[float]] = {"import rdd": [], "": []}
    for _ in range(ROUNDS):
        for code, measured in times.items():
            measured.append(seconds(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)))
    beyond = statistics.median(times["import rdd"]) - statistics.median(times[""])
    return Figure("import rdd beyond an empty interpreter", beyond, at_most=0.3, unit="s")
