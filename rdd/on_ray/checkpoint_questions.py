"""When the workers of a group keep a checkpoint within an epoch: every few minutes, and at the notice that a node will go.

They must agree, or one would wait for the others for ever. So all of them ask after the same number of steps, which rank 0
measures and hands out with each answer; a step itself costs nothing but a count.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray.train
import ray.train.collective

ASK_S = 5.0
"""Seconds between two questions: as often as Ray Train itself asks whether a node is drained (2.60). A question takes some
milliseconds, and a notice comes 30 s (GCP) or 120 s (AWS) before the end of the node."""


@dataclass(frozen=True)
class Answer:
    """What the workers do now, the same on each of them."""

    save: bool
    """Keep a checkpoint."""
    leave: bool
    """Stop here, because the node of one of them will be taken away."""


class CheckpointQuestions:
    """Counts the steps of this worker until all workers ask, and asks.

    Args:
        checkpoint_s: seconds between checkpoints within an epoch.
        notice: says whether a node of the group will be taken away; a barrier of all workers, like the next.
        from_rank_zero: hands what rank 0 says to all workers.
    """

    def __init__(
        self,
        checkpoint_s: float,
        *,
        notice: Callable[[], object | None] = ray.train.get_preemption_info,
        from_rank_zero: Callable[[Any], Any] = ray.train.collective.broadcast_from_rank_zero,
    ) -> None:
        self._checkpoint_s = checkpoint_s
        self._notice, self._from_rank_zero = notice, from_rank_zero
        self._asked = self._saved = time.monotonic()
        self._steps = self._left = 1

    def due(self) -> bool:
        """Count a step; True if this is the moment to ask."""
        self._left -= 1
        return self._left == 0

    def ask(self) -> Answer:
        """What all workers do after this step, and how many steps they take until they ask again."""
        leave = self._notice() is not None
        now = time.monotonic()
        step_s = (now - self._asked) / self._steps
        steps = max(1, int(ASK_S / max(step_s, 1e-6)))
        save, self._steps = self._from_rank_zero((leave or now - self._saved >= self._checkpoint_s, steps))
        self._left, self._asked = self._steps, now
        if save:
            self._saved = now
        return Answer(save, leave)
