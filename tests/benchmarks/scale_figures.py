"""What a tenth of D3's records costs, features of 8 columns aside: to open, to split, to stream, to resample."""

import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import torch
from measure import Figure, seconds, times_as_fast
from sklearn.metrics import roc_auc_score
from synthetic import write_features

from rdd.bands import Bands, fix_bands
from rdd.calibration import Calibration
from rdd.config import FeaturesConfig
from rdd.evaluation.bootstrap import RecordWeightedAuc
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored
from rdd.features import FeatureTable
from rdd.on_ray.feature_stream import StreamedTable

RECORDS, IMAGES, WIDTH = 230_000, 5, 8

_D3_WIDTH = 768

_OPEN = """
import json, sys, time
import rdd.features
from rdd.features import FeatureTable

def private() -> int:
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("RssAnon"))

before, started = private(), time.perf_counter()
table = FeatureTable.load({path!r}, shared={shared!r})
table.labels.sum(), table.order.sum(), table.record_of.sum()
print(json.dumps([time.perf_counter() - started, private() - before]))
"""


def scale_figures(folder: Path) -> list[Figure]:
    """All of them, on one feature set."""
    path = write_features(folder / "features", records=RECORDS, images=IMAGES, width=WIDTH)
    config = FeaturesConfig(path=path)
    small = write_features(folder / "small", records=1000, images=IMAGES, width=WIDTH)
    shared = str(folder / "maps")
    for features in (path, small):
        FeatureTable.load(features, shared=shared)
    opened, private = _opened(path, small, None)
    mapped, mapped_private = _opened(path, small, shared)
    table = FeatureTable.load(path, shared=shared)
    first = seconds(lambda: table.split(config, "train"))
    beyond = private - sum(matrix.nbytes for matrix in table.matrices.values())
    again = seconds(lambda: table.split(config, "train"))
    return [
        Figure("230,000 records: opened, read whole", opened, at_most=1, unit="s"),
        Figure("230,000 records: opened from a node's map", mapped, at_most=0.4, unit="s"),
        Figure("private bytes a record beyond features, read whole", beyond / RECORDS, at_most=180, unit="B"),
        Figure("private bytes a record, opened from a node's map", mapped_private / RECORDS, at_most=87, unit="B"),
        Figure("a second split over the first, in times as fast", first / again, at_least=10),
        Figure("shipped for a streamed window of 512 MiB of D3", _window_bytes(path) / 1e6, at_most=1, unit="MB"),
        Figure("resamples of 1,150,000 images over roc_auc_score's", _resampling(table), at_least=10),
        Figure("evaluate: 1,000 resamples of 500,000 images, all metrics", _thousand_resamples(), at_most=60, unit="s"),
        Figure("evaluate: memory beyond the scores, bytes an image", _evaluation(table), at_most=180, unit="B"),
    ]


def _opened(path: str, small: str, shared: str | None) -> tuple[float, float]:
    """Seconds of a process that opens the table, best of three, and its private bytes beyond those for a small table."""

    def open_once(features: str) -> tuple[float, float]:
        code = _OPEN.format(path=features, shared=shared)
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        took, private = json.loads(done.stdout)
        return took, private

    took, private = zip(*(open_once(path) for _ in range(3)), strict=True)
    return min(took), min(private) - open_once(small)[1]


def _window_bytes(path: str) -> int:
    """Of the request for a window with as many images as 512 MiB of features have in D3."""
    table = StreamedTable.open(path, shuffle_mib=max(1, 512 * WIDTH // _D3_WIDTH))
    batches = table.epoch_batches(torch.arange(len(table)), seed=0, epoch=0, batch_size=2048, stratified=False)
    per_window = table._batches_per_window(2048)
    return len(pickle.dumps(table._window(batches[:per_window], "shared")))


def _resampling(table: FeatureTable) -> float:
    """One resample of all images, by generator too, over one weighted AUC of scikit-learn."""
    rng = np.random.default_rng(0)
    labels, records, generators = table.labels.numpy(), table.record_of.numpy(), table.generator_of.numpy()
    logits = rng.normal(size=len(labels)) + labels
    aucs = RecordWeightedAuc(logits, labels, records, np.maximum(generators - 1, 0))
    counts = np.bincount(rng.integers(aucs.records, size=aucs.records), minlength=aucs.records)
    weights = counts[records]
    assert abs(aucs(counts)[0] - roc_auc_score(labels, logits, sample_weight=weights)) < 1e-9
    return times_as_fast(lambda: aucs(counts), lambda: roc_auc_score(labels, logits, sample_weight=weights), rounds=5)


def _thousand_resamples(records: int = 100_000, some: int = 100) -> float:
    """Seconds of an evaluation of five images a record, by those of some resamples over those of none to speak of."""
    rng, labels = np.random.default_rng(0), np.tile([0, 1, 1, 1, 1], records)
    of_record = np.repeat(np.arange(records), 5)
    names = ("real", "a", "b", "c", "d")
    logits = rng.normal(size=len(labels)) + rng.normal(size=records)[of_record] + labels
    scored = Scored(logits, labels, np.tile(np.arange(5), records), names, of_record)
    calibration = Calibration(threshold=1.0, false_positive_rate=0.05, slope=1.0, offset=0.0, prior=0.8, bands=_bands())
    once, often = (seconds(lambda n=n: evaluate(scored, calibration=calibration, resamples=n, seed=0)) for n in (2, 2 + some))
    return once + (often - once) * 1000 / some


def _bands() -> Bands:
    """Of a detector as it is made by default."""
    logits, labels = np.random.default_rng(0).normal(size=2000), np.tile([0, 1], 1000)
    rates = {"false_positive_rate": 0.01, "false_negative_rate": 0.05}
    return fix_bands(logits + labels, labels, np.arange(2000) // 2, **rates, levels=[0.9, 0.95])


def _evaluation(table: FeatureTable) -> float:
    """Bytes an image that an evaluation takes at its peak, what it is given aside."""
    logits = np.random.default_rng(0).normal(size=len(table)) + table.labels.numpy()
    known = (table.labels.numpy(), table.generator_of.numpy(), table.generators, table.record_of.numpy())
    calibration = Calibration(threshold=0.0, false_positive_rate=0.05, slope=1.0, offset=0.0, prior=0.5, bands=_bands())
    tracemalloc.start()
    try:
        evaluate(Scored(logits, *known), calibration=calibration, resamples=5, seed=0)
        return tracemalloc.get_traced_memory()[1] / len(table)
    finally:
        tracemalloc.stop()
