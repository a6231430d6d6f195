"""The encoder fed as the embedding job feeds it: tables of pixels, two threads; and how much of the time it is at work."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from _clock import Clock, Moment

from rdd.clip import ClipEncoder
from rdd.config import ClipConfig
from rdd.embedding.encoder import RecordEncoder
from rdd.schema import DECODED

THREADS = 2
"""As many as rdd.on_ray.embedding_graph gives an encoder."""


@dataclass(frozen=True)
class Streamed:
    """What came of some tables."""

    features: list[pa.Table]
    images_per_s: float
    busy: float
    """Share of the time in which a forward pass was under way."""
    peak_bytes: int
    """Most memory of the GPU that was in use; 0 on a CPU."""


class _TimedTower:
    """An image tower that notes when each forward pass begins and ends, once its images are there."""

    def __init__(self, tower: Any, clock: Clock) -> None:
        self._tower, self._clock = tower, clock
        self.passes: list[tuple[Moment, Moment]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def __call__(self, inputs: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        begin = self._clock.mark()
        features = self._tower(inputs, names)
        self.passes.append((begin, self._clock.mark()))
        return features


def decoded(tables: int, records: int, images: int, side: int) -> list[pa.Table]:
    """Tables as the decoder gives them, of random pixels."""
    rng, found = np.random.default_rng(0), []
    for number in range(tables):
        rows = [
            {
                "key": f"{number}#{row}",
                "source": str(number),
                "row": row,
                "record_id": f"{number}-{row}",
                "generators": ["real", *["x"] * (images - 1)],
                "pixels": [rng.bytes(side * side * 3) for _ in range(images)],
                "prompts_cut": 0,
            }
            for row in range(records)
        ]
        found.append(pa.Table.from_pylist([{name: row.get(name) for name in DECODED.names} for row in rows], schema=DECODED))
    return found


def stream(config: ClipConfig, tables: Sequence[pa.Table], *, threads: int = THREADS) -> Streamed:
    """Encode tables of images, after the first of them once to warm up.

    Args:
        config: of the encoder; its device is where it runs.
        tables: of :func:`decoded`.
        threads: that hand tables over.
    """
    encoder, clock = ClipEncoder.from_config(config), Clock(config.device)
    encoder.prepare(config.features)
    tower = _TimedTower(encoder._tower, clock)
    encoder._tower = tower  # type: ignore[assignment]
    encode = RecordEncoder(encoder, config, text=False, progress=lambda step, count: None)
    encode(tables[0])
    tower.passes.clear()
    if config.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        features = list(pool.map(encode, tables))
    seconds = time.perf_counter() - started
    images = sum(len(generators) for table in tables for generators in table["generators"])
    peak = torch.cuda.max_memory_allocated() if config.device == "cuda" else 0
    return Streamed(features, images / seconds, clock.busy_share(tower.passes), peak)


def values_of(features: Sequence[pa.Table], name: str) -> np.ndarray:
    """One feature of all images, ``(n, width)`` float32."""
    rows = [np.frombuffer(row, "<f2") for table in features for row in table[name].to_pylist()]
    images = [len(generators) for table in features for generators in table["generators"]]
    parts = [row.reshape(number, -1) for row, number in zip(rows, images, strict=True)]
    return np.concatenate(parts).astype(np.float32)
