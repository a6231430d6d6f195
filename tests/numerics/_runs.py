"""Small runs of the engine, on one process or on ranks of a gloo group."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from rdd.config import Config
from rdd.config.parse import override
from rdd.engine import fit
from rdd.features import FeatureTable
from rdd.features.columns import Column
from rdd.runs.checkpoint import TrainState, load_state
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext

FEATURES, EPOCHS = 12, 3


def make_table(records: int = 80) -> FeatureTable:
    """Features of records of three images, the generated ones shifted."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3 * records, FEATURES, generator=generator)
    labels = torch.tensor([0.0, 1.0, 1.0]).repeat(records)
    return FeatureTable(
        layout={"projected": (Column("projected", FEATURES, np.dtype("<f2")),)},
        matrices={"projected": (images + 0.7 * labels[:, None]).half()},
        order=torch.arange(3 * records),
        record_of=torch.arange(records).repeat_interleave(3),
        labels=labels,
        generator_of=torch.tensor([0, 1, 2]).repeat(records),
        generators=("real", "a", "b"),
        record_ids=pa.array(f"r{i}" for i in range(records)),
        manifest={"embed_dim": FEATURES},
        manifest_sha256="",
        identity="",
    )


def make_config(**changes: Any) -> Config:
    base = {
        "features.text_mode": "none",
        "features.validation_share": 0.2,
        "features.test_share": 0.2,
        "model.hidden": 16,
        "model.dropout": 0.0,
        "train.precision": "fp64",
        "train.batch_size": 17,
        "train.epochs": EPOCHS,
    }
    return override(Config(), base | {name.replace("__", "."): value for name, value in changes.items()})


class RankContext(LocalContext):
    """A rank of a gloo group; only rank 0 keeps checkpoints."""

    def __init__(self, folder: Path) -> None:
        super().__init__(RunDirectory(str(folder)), lambda metrics: None)
        self.rank, self.world_size, self.group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD

    def save(self, state: TrainState, *, best: bool) -> None:
        if self.rank == 0:
            super().save(state, best=best)


def on_ranks(world: int, work: Callable[..., None], *given: Any) -> None:
    """Run ``work(*given)`` on each rank of a gloo group, one thread each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, world, port, work, given)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * world


def _rank(rank: int, world: int, port: int, work: Callable[..., None], given: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world)
    try:
        work(*given)
    finally:
        dist.destroy_process_group()


def fit_rank(folder: Path, config: Config) -> None:
    fit(config, make_table(), RankContext(folder))


def fit_on(world: int, folder: Path, config: Config) -> TrainState:
    """Last state of a run on some ranks."""
    if world == 1:
        return fit(config, make_table(), LocalContext(RunDirectory(str(folder)), lambda metrics: None))
    on_ranks(world, fit_rank, folder, config)
    return load_state(RunDirectory(str(folder)).checkpoint("last"))


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((one.double() - other.double()).norm() / one.double().norm().clamp(min=1e-12))


def assert_same(one: TrainState, other: TrainState, tolerance: float) -> None:
    for name, tensor in one.model.items():
        assert difference(tensor, other.model[name]) <= tolerance, name
