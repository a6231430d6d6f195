"""Steps of an embedding that cost nothing, or what a GPU would: for the graph around them."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from ray import cloudpickle

from rdd.config import ClusterConfig, EmbedConfig
from rdd.data.index import make_index
from rdd.on_ray.embedding_graph import Sizes, Steps, write_features
from rdd.on_ray.session import ray_session
from rdd.preprocessing import Preprocessor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers can not import a benchmark

SIDE = 224


class FreeEncoder:
    """Costs nothing: the feature of an image is its first 32 bytes."""

    class Done:
        def __init__(self, features: dict[str, torch.Tensor]) -> None:
            self._features = features

        def features(self) -> dict[str, torch.Tensor]:
            return self._features

    preprocessor = Preprocessor({"size": SIDE, "interpolation": "bicubic", "resize_mode": "shortest"})

    def staged(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(pixels)

    def launch(self, pixels: torch.Tensor, names: Sequence[str]) -> "FreeEncoder.Done":
        first = pixels.reshape(len(pixels), -1)[:, :32].float() if len(pixels) else torch.empty((0, 32))
        return self.Done(dict.fromkeys(names, first))

    def launch_tokens(self, tokens: torch.Tensor, name: str) -> "FreeEncoder.Done":
        return self.Done({name: tokens[:, :32].float()})


GPUS, GPU_RATE, SLOWED = 8, 1000, 16
"""Simulated GPUs; images/s of each; and by how much that is slowed down, so that two cores can feed them."""


class SleepingGpu:
    """Takes as long for its images as a GPU would, one forward pass at a time, and notes when."""

    def __init__(self) -> None:
        self._busy = threading.Lock()

    def __call__(self, table: pa.Table) -> pa.Table:
        flat = np.frombuffer(table["pixels"].combine_chunks().buffers()[2], dtype=np.uint8)
        flat[:: SIDE * SIDE * 3].sum()  # the images have come
        with self._busy:
            begun = time.time()
            time.sleep(table.num_rows * SLOWED / GPU_RATE)
            ended = time.time()
        noted = {"gpu": os.getpid(), "begun": begun, "ended": ended}
        return pa.table({"key": table["key"], **{name: [value] * table.num_rows for name, value in noted.items()}})


def read_keys(index: pa.Table) -> Iterator[pa.Table]:
    """A few records at a time, as readers do."""
    for start in range(0, index.num_rows, 16):
        yield index.slice(start, 16).select(["key"])


def make_pixels(table: pa.Table) -> pa.Table:
    """One image a record, without decoding."""
    return table.append_column("pixels", pa.array([bytes(SIDE * SIDE * 3)] * table.num_rows))


def no_progress(step: str, count: int) -> None:
    """Nothing is shown."""


def index_of(records: int) -> pa.Table:
    """Of one source."""
    rows = list(range(records))
    return make_index(
        {"key": [f"k{row:07d}" for row in rows], "source": ["s"] * records, "row": rows, "rows": [[r] for r in rows]}
    )


def pass_keys(table: pa.Table) -> pa.Table:
    """No pixels and no features."""
    return table.select(["key"])


class KeysOnly:
    """Encodes nothing."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


def write_with_gpus(folder: str) -> None:
    """Run the graph with simulated GPUs."""
    steps = Steps(read=read_keys, decode=make_pixels, encoder=SleepingGpu, arguments={}, progress=no_progress)
    sizes = Sizes(task=256, forward_pass=64, commit=2048, block_bytes=int(0.7 * 64 * SIDE * SIDE * 3))
    config = EmbedConfig(num_workers=GPUS, cpus_per_worker=0.01, cpus_per_task=0.5)
    with ray_session(ClusterConfig(address="local", num_cpus=2), [], knobs="nothing"):
        write_features(index_of(16_384), steps, folder, config, sizes, {})


def write_keys(folder: str, records: int) -> None:
    """Run the graph with steps of no cost, in tasks of 512 records as D3 has them."""
    steps = Steps(read=read_keys, decode=pass_keys, encoder=KeysOnly, arguments={}, progress=no_progress)
    sizes = Sizes(task=512, forward_pass=512, commit=1024, block_bytes=2**20)
    with ray_session(ClusterConfig(address="local", num_cpus=2), [], knobs="nothing"):
        write_features(index_of(records), steps, folder, EmbedConfig(cpus_per_worker=0.5, cpus_per_task=0.5), sizes, {})
