"""A run in this process alone, as the engine sees it."""

import logging
import math
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist

from rdd.features.gather import CPU
from rdd.progress import PROGRESS_S, at_most_every
from rdd.run_context import TrainState
from rdd.runs.directory import RunDirectory

logger = logging.getLogger(__name__)


class LocalContext:
    """A run in this process alone.

    Args:
        run: its directory.
        on_epoch: told the metrics of each epoch.
        device: where the head is.
        on_progress: told the epoch, the step and their number every few seconds; by default the log.
        checkpoint_s: seconds between checkpoints within an epoch; by default there are none.
    """

    rank: int = 0
    world_size: int = 1
    group: dist.ProcessGroup | None = None

    def __init__(
        self,
        run: RunDirectory,
        on_epoch: Callable[[Mapping[str, float]], None],
        *,
        device: torch.device = CPU,
        on_progress: Callable[[int, int, int], None] | None = None,
        checkpoint_s: float = math.inf,
    ) -> None:
        self._run = run
        self._on_epoch = on_epoch
        self._on_progress = at_most_every(PROGRESS_S, on_progress or _log_progress)
        self._save_within = at_most_every(checkpoint_s, lambda state: run.save(state(), best=False))
        self.device = device

    def load(self) -> TrainState | None:
        """The last checkpoint, if the run has one."""
        return self._run.load_both()[0]  # a run without its best would notice at its end

    def save(self, state: TrainState, *, best: bool) -> None:
        """Keep a checkpoint; written at once, since an epoch that is reported must be kept."""
        self._run.save(state, best=best)

    def wait_until_saved(self) -> None:
        """Nothing: it is."""

    def between_steps(self, state: Callable[[], TrainState]) -> None:
        """Keep a checkpoint within a long epoch."""
        self._save_within(state)

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Say where a long epoch stands."""
        self._on_progress(epoch, step, steps)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Pass the metrics of an epoch on."""
        self._on_epoch(metrics)


def _log_progress(epoch: int, step: int, steps: int) -> None:
    logger.info("epoch %d: step %d of %d", epoch, step, steps)
