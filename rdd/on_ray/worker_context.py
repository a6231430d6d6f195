"""A rank of a Ray Train run, as the engine sees it."""

from collections.abc import Mapping

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from rdd.engine import TrainState
from rdd.progress import PROGRESS_S, at_most_every
from rdd.runs.checkpoint import StateWriter
from rdd.runs.directory import RunDirectory


class WorkerContext:
    """This worker of a Ray Train run. Checkpoints lie in the run directory, which every rank can read.

    Args:
        run: the run's directory, on storage that all workers share.
    """

    def __init__(self, run: RunDirectory) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.group: dist.ProcessGroup | None = dist.group.WORLD if self.world_size > 1 else None
        self.device: torch.device = ray.train.torch.get_device()
        self._run = run
        self._writer = StateWriter(lambda state, best: run.save(state, best=best))
        self._save_progress = at_most_every(PROGRESS_S, run.save_progress)

    def load(self) -> TrainState | None:
        """The last checkpoint, if the run has one; rank 0 also checks the best, which the run needs at its end."""
        return self._run.load_both()[0] if self.rank == 0 else self._run.load("last")

    def save(self, state: TrainState, *, best: bool) -> None:
        """Rank 0 writes, beside the next steps; the others hold the same state."""
        if self.rank == 0:
            self._writer.save(state, best=best)

    def wait_until_saved(self) -> None:
        """Wait for the last one."""
        self._writer.wait()

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Rank 0 notes it in the run directory, which the driver watches."""
        if self.rank == 0:
            self._save_progress(epoch, step, steps)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Nothing: the driver reads epochs in the run directory, and ``ray.train.report`` holds each of them for up to 2 s.

        It waits until the controller has fetched the metrics, which it does every 2 s (Ray 2.60).
        """
