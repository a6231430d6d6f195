"""A training run's directory: config.yaml, checkpoints/, metrics.json, figures/, detector/."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from rdd import storage
from rdd.runs.checkpoint import load_state, save_state
from rdd.engine import TrainState
from rdd.features.gather import CPU

logger = logging.getLogger(__name__)

@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run and its two checkpoints, the last and the best."""

    path: str

    @property
    def metrics(self) -> str:
        """Written last: a run that has it is finished."""
        return storage.join(self.path, "metrics.json")

    @property
    def detector(self) -> str:
        """Directory of the artefact."""
        return storage.join(self.path, "detector")

    @property
    def figures(self) -> str:
        """Directory of the figures."""
        return storage.join(self.path, "figures")

    @property
    def test_logits(self) -> str:
        """Logits of the test set."""
        return storage.join(self.path, "test_logits.parquet")

    def checkpoint(self, name: str) -> str:
        """File of the checkpoint ``last`` or ``best``."""
        return storage.join(self.path, "checkpoints", f"{name}.pt")

    def load(self, name: str) -> TrainState | None:
        """A checkpoint, if there is one."""
        path = self.checkpoint(name)
        return load_state(path) if storage.exists(path) else None

    def save(self, state: TrainState, *, best: bool) -> None:
        """Keep the state as the last, and before that as the best if it is: a kill between the two repeats an epoch."""
        if best:
            save_state(self.checkpoint("best"), state)
        save_state(self.checkpoint("last"), state)
        storage.write_json(self._note("history"), state.history)

    def claim_features(self, identity: str, *, streamed: bool) -> None:
        """Note what the run is trained on; a later start must come with the same.

        Args:
            identity: of the features, see :attr:`FeatureTable.identity`.
            streamed: whether they are streamed, in another order than from memory.

        Raises:
            ValueError: the run was begun on other features, or in the other order.
        """
        place, own = self._note("features"), {"identity": identity, "streamed": streamed}
        if not storage.exists(place):
            storage.write_json(place, own)
            return
        begun = storage.read_json(place)
        if begun["identity"] != identity:
            raise ValueError(f"{self.path} was begun on other features: they were embedded anew since; choose another output")
        if begun["streamed"] != streamed:
            other = "stream" if begun["streamed"] else "map"
            raise ValueError(f"{self.path} was begun on features in another order; set features.held to {other}")

    def logged(self) -> int:
        """Epochs that the tracker has been told of."""
        return storage.read_json(self._note("logged")) if storage.exists(self._note("logged")) else 0

    def save_logged(self, epochs: int) -> None:
        """Note how many epochs the tracker has been told of."""
        storage.write_json(self._note("logged"), epochs)

    def failure(self) -> str | None:
        """Why this run can not succeed however often it is tried, as a worker has noted."""
        return storage.read_json(self._note("failure")) if storage.exists(self._note("failure")) else None

    def save_failure(self, reason: str) -> None:
        """Note an error that would come again."""
        storage.write_json(self._note("failure"), reason)

    def forget_failure(self) -> None:
        """Give the run another try."""
        if storage.exists(self._note("failure")):
            storage.delete_file(self._note("failure"))

    def _note(self, name: str) -> str:
        return storage.join(self.path, "checkpoints", f"{name}.json")

    def drop_checkpoints(self) -> None:
        """Delete the weights; the history of the epochs stays."""
        for name in ("last", "best"):
            if storage.exists(self.checkpoint(name)):
                storage.delete_file(self.checkpoint(name))

    def history(self) -> list[dict[str, float]]:
        """Metrics of the epochs so far, without reading a checkpoint."""
        return storage.read_json(self._note("history")) if storage.exists(self._note("history")) else []

    def save_progress(self, epoch: int, step: int, steps: int) -> None:
        """Note where the epoch stands, for whoever watches."""
        storage.write_json(self._note("progress"), {"epoch": epoch, "step": step, "steps": steps})

    def progress(self) -> dict[str, int] | None:
        """Where the epoch stands, as last noted."""
        return storage.read_json(self._note("progress")) if storage.exists(self._note("progress")) else None
