"""The metrics of an embedding over time, from what its workers tell."""

from collections.abc import Mapping

import ray

from rdd.on_ray.embedding_progress import answer
from rdd.resource_use import Use
from rdd.tracking.course import Course
from rdd.tracking.tracker import Tracker


class EmbeddingCourse:
    """Logs records a second, the busy share and memory of the encoders, and how many records were rejected.

    Args:
        tracker: of the embedding's run.
        ledger: that the workers report to.
        done: records that earlier starts have embedded.
    """

    def __init__(self, tracker: Tracker, ledger: "ray.actor.ActorHandle", *, done: int) -> None:
        self._ledger = ledger
        self._course = Course(tracker, "records", done=done)

    def on_counts(self, counts: Mapping[str, int]) -> None:
        """Log a point if it is time for one.

        Args:
            counts: of records, by step.
        """
        if self._course.due():
            self._course.log(counts.get("encode", 0), uses=self._uses(), counts=_rejected(counts))

    def end(self, embedded: int) -> None:
        """Log the last point: so many records are embedded, which were all that this start had to do."""
        self._course.end(embedded, uses=self._uses(), counts=_rejected(answer(self._ledger.counts.remote(), {})))

    def _uses(self) -> dict[str, Use]:
        return answer(self._ledger.uses.remote(), {})


def _rejected(counts: Mapping[str, int]) -> dict[str, float]:
    return {"progress/quarantined": counts.get("reject", 0)}
