"""The real training loop against a bare one and against the official one."""

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import official
import torch
import torch.distributed as dist
from measure import Figure
from synthetic import write_features
from training_steps import BATCH, bare_steps, real_steps

from rdd.config import Config
from rdd.features import FeatureTable

BLOCK_S = 10.0


def training_figures(folder: Path) -> list[Figure]:
    """One process step by step, two processes in blocks, and a head on which arithmetic is almost free."""
    torch.set_num_threads(2)
    path = write_features(folder / "training", records=5_000, images=5)
    return [
        Figure("training samples/s over a bare loop, full head", _against_bare(path, folder), at_least=0.93),
        Figure("2 workers of 1 thread over the bare loop on 2", _two_workers(path, folder), at_least=0.88),
        Figure("head 16 wide: samples/s over the official loop", _against_official(path, folder), at_least=3),
    ]


def _against_bare(path: str, folder: Path, rounds: int = 15) -> float:
    real, bare = real_steps(path, maps=str(folder / "maps"), hidden=1536), bare_steps(1536)
    return _step_by_step(real, bare, rounds)


def _step_by_step(ours: Iterator[int], theirs: Iterator[int], rounds: int) -> float:
    """Median images a second of ours over theirs, alternated step by step."""
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 2):
        for side, steps in zip(rates, (ours, theirs), strict=True):
            started = time.perf_counter()
            images = next(steps)
            side.append(images / (time.perf_counter() - started))
    return statistics.median(rates[0][2:]) / statistics.median(rates[1][2:])


def _against_official(path: str, folder: Path) -> float:
    """The official loop with the better of 0 and 2 loader workers, in blocks of steps; A B A B."""
    table = FeatureTable.load(path, shared=str(folder / "maps"))
    images = table.split(Config().features, "train")
    whole = table.gather(images, "shared")
    features, labels = whole.features, whole.labels
    ours = real_steps(path, maps=str(folder / "maps"), hidden=16)
    theirs = [
        official.training_steps(features, labels, hidden=16, batch_size=BATCH, loader_workers=workers) for workers in (0, 2)
    ]
    rates = _in_turns([lambda steps=steps: _rate_of(steps, BLOCK_S) for steps in (ours, *theirs)], rounds=2)
    return rates[0] / max(rates[1:])


def _rate_of(steps: Iterator[int], block_s: float) -> float:
    """Images a second over a block of time."""
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < block_s:
        images += next(steps)
    return images / (time.perf_counter() - started)


def _in_turns(sides: list[Callable[[], float]], rounds: int) -> list[float]:
    """Median rate of each side, one block after the other, the first round to warm up."""
    rates: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for own, side in zip(rates, sides, strict=True):
            own.append(side())
    return [statistics.median(own[1:]) for own in rates]


def _two_workers(path: str, folder: Path, rounds: int = 3) -> float:
    """Two processes of one thread against the bare loop on two threads, in blocks of time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    options = {"path": path, "maps": str(folder / "maps"), "port": port}
    ranks = [context.Process(target=_rank, args=(rank, theirs, options)) for rank, (_, theirs) in enumerate(pipes)]
    for process in ranks:
        process.start()

    def workers() -> float:
        for ours, _ in pipes:
            ours.send("block")
        return max(ours.recv() for ours, _ in pipes)

    bare = bare_steps(1536)
    rates = _in_turns([workers, lambda: _rate_of(bare, BLOCK_S)], rounds)
    for ours, _ in pipes:
        ours.send("stop")
    for process in ranks:
        process.join(60)
    return rates[0] / rates[1]


def _rank(rank: int, orders: Connection, options: dict) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(options["port"]))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    steps = real_steps(options["path"], maps=options["maps"], hidden=1536, group=dist.group.WORLD)
    while orders.recv() == "block":
        started, images = time.perf_counter(), 0.0
        going = torch.ones(1)
        while bool(going):  # rank 0 decides, since both have to take the same steps
            images += next(steps)
            going = torch.tensor([float(time.perf_counter() - started < BLOCK_S)])
            dist.broadcast(going, 0)
        orders.send(images / (time.perf_counter() - started))
    dist.destroy_process_group()
