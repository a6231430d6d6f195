"""A rank of a Ray Train run, as the engine sees it."""

from collections.abc import Callable, Mapping
from datetime import timedelta

import ray.exceptions
import ray.train
import ray.train.collective
import torch
import torch.distributed as dist

from rdd.config import TrainConfig
from rdd.on_ray.checkpoint_questions import CheckpointQuestions
from rdd.progress import PROGRESS_S, at_most_every
from rdd.run_context import TrainState
from rdd.runs.checkpoint import StateWriter
from rdd.runs.directory import RunDirectory


class WorkerContext:
    """This worker of a Ray Train run. Checkpoints lie in the run directory, which every rank can read.

    To make it is a barrier of all workers: they come to it when they have loaded the features, each in its own time, and from
    then on none of them waits longer than ``train.exchange_timeout_s`` for another.

    Args:
        run: the run's directory, on storage that all workers share.
        config: of the run, for its time limits.
        device: where the head is.
    """

    def __init__(self, run: RunDirectory, config: TrainConfig, device: torch.device) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = device
        ray.train.collective.barrier()
        self.group: dist.ProcessGroup | None = None
        if self.world_size > 1:
            group = dist.new_group(timeout=timedelta(seconds=config.exchange_timeout_s))
            assert isinstance(group, dist.ProcessGroup)  # of which every rank is one
            self.group = group
        self._questions = CheckpointQuestions(config.checkpoint_s)
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

    def between_steps(self, state: Callable[[], TrainState]) -> None:
        """Keep a checkpoint where all ranks have agreed to; at the notice that a node will be taken away, leave with it.

        Raises:
            ray.exceptions.RayActorError: a node will be taken away; the checkpoint is written, and Ray Train starts the group
                anew on what is left.
        """
        if not self._questions.due():
            return
        answer = self._questions.ask()
        if answer.save:
            self.save(state(), best=False)
        if answer.leave:
            self.wait_until_saved()
            if self.rank == 0:
                now = state()
                self._run.save_notice(now.epoch + 1, now.step)
            # Ray Train (2.60) waits for the end of the node where its workers go on, and takes any other error for a failure
            raise ray.exceptions.RayActorError(error_msg="a node of this group will be taken away", preempted=True)

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Rank 0 notes it in the run directory, which the driver watches."""
        if self.rank == 0:
            self._save_progress(epoch, step, steps)

    def report(self, metrics: Mapping[str, float]) -> None:
        """Nothing: the driver reads epochs in the run directory, and ``ray.train.report`` holds each of them for up to 2 s.

        It waits until the controller has fetched the metrics, which it does every 2 s (Ray 2.60).
        """
