"""Training with the features in a device's memory: what it computes, how long it takes, and how long its arithmetic does."""

import statistics
import time
import warnings
from collections.abc import Iterator

import torch
from _clock import Clock
from torch.utils.flop_counter import FlopCounterMode
from training_steps import BATCH, bare_steps

from rdd.config import Config
from rdd.config.parse import override
from rdd.engine import Learner, train_steps
from rdd.features import FeatureTable
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext

_COUNTED = 64  # images; the arithmetic grows with their number


def first_losses(table: FeatureTable, device: torch.device, *, steps: int = 3) -> list[float]:
    """Losses of the first steps, without dropout, whose masks are other ones on each kind of device.

    Args:
        table: where its features are to be.
        device: of the head.
        steps: how many.
    """
    config = override(Config(), {"model.dropout": 0.0, "model.hidden": 64, "train.batch_size": 256})
    learner = Learner.build(config, table.width("shared"), LocalContext(RunDirectory("/nowhere"), print, device=device))
    images = table.split(config.features, "train")
    found = train_steps(learner, table, images, epoch=0)
    return [float(next(found)["loss"]) for _ in range(steps)]


def flops_of_step(width: int, hidden: int = 1536, batch: int = BATCH) -> int:
    """Floating-point operations of two forward and backward passes of the head, as SAM needs them.

    Args:
        width: of an image's features.
        hidden: of the head.
        batch: images.
    """
    steps = bare_steps(width, hidden, batch=_COUNTED)
    with FlopCounterMode(display=False) as counter:
        next(steps)
    return counter.get_total_flops() * batch // _COUNTED


def step_seconds(steps: Iterator[int], device: str, *, number: int) -> float:
    """Seconds of one of some steps; the device is waited for at their end alone."""
    clock = Clock(device)
    clock.wait()
    started = time.perf_counter()
    for _ in range(number):
        next(steps)
    clock.wait()
    return (time.perf_counter() - started) / number


def alternated(ours: Iterator[int], theirs: Iterator[int], device: str, *, number: int, rounds: int) -> tuple[float, float]:
    """Median seconds of a step of each, in blocks of steps, the first round to warm up."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for side, steps in zip(found, (ours, theirs), strict=True):
            side.append(step_seconds(steps, device, number=number))
    return statistics.median(found[0][1:]), statistics.median(found[1][1:])


def waits_of(steps: Iterator[int], *, number: int) -> float:
    """How often a step waits for the GPU, on average of some."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for _ in range(number):
                next(steps)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    return sum("synchroniz" in str(warning.message) for warning in said) / number
