"""A training run's directory: config.yaml, checkpoints/, metrics.json, figures/, detector/, report.html."""

from dataclasses import dataclass, replace
from typing import Any

from rdd import storage
from rdd.config import Config
from rdd.config.added import ADDED
from rdd.config.parse import from_dict
from rdd.config.stages import TRAINING_SECTIONS
from rdd.config.yaml_text import load_yaml
from rdd.run_context import TrainState
from rdd.runs.checkpoint import load_state, save_state
from rdd.shapes import NUMBER, Shape

_SPLIT = {"split", "split_seed", "validation_share", "test_share", "num_folds", "fold"}
"""Settings under ``features`` without which nobody knows what a run was trained and tested on."""

_NOTES: dict[str, Shape] = {
    "history": [{"epoch": int, "val/auroc": NUMBER, "val/loss": NUMBER}],
    "logged": int,
    "features": {"identity": str, "streamed": bool},
    "failure": str,
    "loading": str,
    "progress": {"epoch": int, "step": int, "steps": int},
    "notice": {"epoch": int, "step": int},
}
"""What the processes of a run leave for each other, in ``checkpoints/<name>.json``."""


def _with_added(tree: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The config of a run that an earlier version wrote, with the settings that it did not know as they were then."""
    whole = {section: dict(leaves) for section, leaves in tree.items()}
    for path, value in ADDED.items():
        section, leaf = path.split(".")
        if section in whole:
            whole[section].setdefault(leaf, value)
    return whole


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run, its two checkpoints (the last and the best), and the notes that its processes leave for each other."""

    path: str

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

    @property
    def trained_on(self) -> str:
        """Hashes of the ids of the records that the detector was trained or selected on."""
        return storage.join(self.path, "trained_on.parquet")

    def config(self) -> Config:
        """The config that the run was trained with.

        Raises:
            ValueError: there is no run.
            RuntimeError: its config is damaged.
        """
        place = storage.join(self.path, "config.yaml")
        if not storage.exists(place):
            raise ValueError(f"{self.path} holds no config.yaml, so no run of jobs/train.py or jobs/ablate.py")
        try:
            tree = load_yaml(storage.read_bytes(place).decode())
            if not isinstance(tree, dict) or not all(isinstance(leaves, dict) for leaves in tree.values()):
                raise ValueError("it must be a mapping of sections")
            config = from_dict(_with_added(tree))
            missing = set(TRAINING_SECTIONS) - set(tree) or _SPLIT - set(tree["features"])
        except ValueError as error:  # no UTF-8, no YAML, no such setting
            raise RuntimeError(f"{place} is not the config of a run: {error}; delete {self.path} to train it again") from error
        if missing:
            raise RuntimeError(f"{place} lacks {', '.join(sorted(missing))}; delete {self.path} to train this run again")
        return config

    @property
    def _way_out(self) -> str:
        return f"delete {storage.join(self.path, 'checkpoints')} to train this run again"

    def checkpoint(self, name: str) -> str:
        """File of the checkpoint ``last`` or ``best``."""
        return storage.join(self.path, "checkpoints", f"{name}.pt")

    def load(self, name: str) -> TrainState | None:
        """The checkpoint ``last`` or ``best``, if there is one.

        Raises:
            RuntimeError: it is torn or another run's.
        """
        path, way_out = self.checkpoint(name), self._way_out
        if not storage.exists(path):
            return None
        state = load_state(path, way_out=way_out)
        first, noted = state.history[:1], self.history()[:1]  # with its times no two runs share one
        if noted and first != noted:
            raise RuntimeError(f"{path} is of another run: its epochs are not those of this run's history.json; {way_out}")
        return state

    def load_both(self) -> tuple[TrainState | None, TrainState | None]:
        """The last checkpoint and the best one, if there are any, of one and the same run.

        Raises:
            RuntimeError: as for :meth:`load`, or they are of different runs, or ``best`` is missing after an epoch.
        """
        last, best = self.load("last"), self.load("best")
        if last is not None and last.epoch > 0:  # within the first epoch nothing is the best yet
            if best is None:
                place = self.checkpoint("best")
                raise RuntimeError(f"{place} is missing, though the run has a last checkpoint; {self._way_out}")
            if last.history[:1] != best.history[:1]:
                folder = storage.join(self.path, "checkpoints")
                raise RuntimeError(f"last.pt and best.pt in {folder} are of two runs; {self._way_out}")
        return last, best

    def save(self, state: TrainState, *, best: bool) -> None:
        """Keep the state as the last, and before that as the best if it is: a kill between the two repeats an epoch.

        Nobody goes on from the best, so it is kept without the optimizer's state.
        """
        if best:
            save_state(self.checkpoint("best"), replace(state, optimizer={}))
        save_state(self.checkpoint("last"), state)
        self._write_note("history", state.history)

    def drop_checkpoints(self) -> None:
        """Delete the weights; the history of the epochs stays."""
        for name in ("last", "best"):
            if storage.exists(self.checkpoint(name)):
                storage.delete_file(self.checkpoint(name))

    def claim_features(self, identity: str, *, streamed: bool) -> None:
        """Note what the run is trained on; a later start must come with the same.

        Args:
            identity: of the features, see :attr:`FeatureTable.identity`.
            streamed: whether they are streamed, in another order than from memory.

        Raises:
            ValueError: the run was begun on other features, or in the other order.
        """
        claim = {"identity": identity, "streamed": streamed}
        begun = self._read_note("features", None)
        if begun is None:
            self._write_note("features", claim)
            return
        self.check_features(identity)
        if begun["streamed"] != streamed:
            other = "stream" if begun["streamed"] else "map"
            raise ValueError(f"{self.path} was begun on features in another order; set features.held to {other}")

    def check_features(self, identity: str) -> None:
        """Refuse other features than those that the run was begun on.

        Raises:
            ValueError: they were embedded anew since.
        """
        begun = self._read_note("features", None)
        if begun is not None and begun["identity"] != identity:
            raise ValueError(f"{self.path} was begun on other features: they were embedded anew since; choose another output")

    def history(self) -> list[dict[str, float]]:
        """Metrics of the epochs so far, without reading a checkpoint."""
        return self._read_note("history", [])

    def logged(self) -> int:
        """Epochs that the tracker has been told of."""
        return max(0, self._read_note("logged", 0))

    def save_logged(self, epochs: int) -> None:
        """Note how many epochs the tracker has been told of."""
        self._write_note("logged", epochs)

    def failure(self) -> str | None:
        """Why this run can not succeed however often it is tried, as a worker has noted."""
        return self._read_note("failure", None)

    def save_failure(self, reason: str) -> None:
        """Note an error that would come again."""
        self._write_note("failure", reason)

    def forget_failure(self) -> None:
        """Give the run another try."""
        if storage.exists(self._note("failure")):
            storage.delete_file(self._note("failure"))

    def save_loading(self, what: str) -> None:
        """Note how far a worker has come before its first step: it has started, or has loaded some of the features."""
        self._write_note("loading", what)

    def save_progress(self, epoch: int, step: int, steps: int) -> None:
        """Note where the epoch stands, for the process that watches."""
        self._write_note("progress", {"epoch": epoch, "step": step, "steps": steps})

    def notice(self) -> dict[str, int] | None:
        """Epoch and step of the checkpoint that was kept when a node was about to be taken away, the last time."""
        return self._read_note("notice", None)

    def save_notice(self, epoch: int, step: int) -> None:
        """Note that a checkpoint was kept because a node will be taken away."""
        self._write_note("notice", {"epoch": epoch, "step": step})

    def notes(self) -> tuple[str | None, dict[str, int] | None, list[dict[str, float]]]:
        """What changes while the run moves: how far it has loaded, where the epoch stands, and its epochs."""
        return self._read_note("loading", None), self._read_note("progress", None), self.history()

    def _note(self, name: str) -> str:
        return storage.join(self.path, "checkpoints", f"{name}.json")

    def _read_note(self, name: str, default: Any) -> Any:
        place = self._note(name)
        if not storage.exists(place):
            return default
        return storage.read_json(place, _NOTES[name], way_out=f"delete {self.path} to train this run again")

    def _write_note(self, name: str, value: Any) -> None:
        storage.write_json(self._note(name), value)
