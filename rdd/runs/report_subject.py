"""What a page can be about: a finished training run, or an evaluation of one; told apart by the files of the directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rdd import storage
from rdd.config import Config
from rdd.config.parse import from_dict
from rdd.config.stages import EVALUATE, TRAIN
from rdd.config.yaml_text import load_yaml
from rdd.features.feature_set import identity_if_there
from rdd.runs.directory import RunDirectory


@dataclass(frozen=True)
class Subject:
    """A directory that a page is about, and what its jobs have noted."""

    path: str
    kind: str
    """``training run`` or ``evaluation``."""
    config: Config
    """Of the directory: of an evaluation, what was evaluated, and on what."""
    run: RunDirectory
    """Of the detector."""
    report: Mapping[str, Any]
    """Of :func:`rdd.evaluation.report.evaluate`."""
    history: list[dict[str, float]]
    """Epochs; none of an evaluation."""
    logits: str
    """File of the images' logits."""
    features: str | None
    """Identity of the features that it was tested on, where they or a note of them are there."""

    @property
    def name(self) -> str:
        """The last two folders of the path, since that of a run may be called seed-0."""
        return "/".join(self.path.rstrip("/").split("/")[-2:])

    @property
    def features_names(self) -> str:
        """Directories of the features that it was tested on."""
        path = self.config.features.path
        return path if isinstance(path, str) else ", ".join(path)


def result_of(path: str) -> Mapping[str, Any]:
    """What ``metrics.json`` of a finished directory holds.

    Raises:
        ValueError: there is none.
    """
    place = storage.join(path, TRAIN.result_file)
    if not storage.exists(place):
        raise ValueError(f"report.run must name a finished run or evaluation, got {path} without {TRAIN.result_file}")
    return storage.read_json(place, dict, way_out=f"delete {place} to make it anew")


def subject_of(path: str, result: Mapping[str, Any]) -> Subject:
    """The subject in a directory.

    Args:
        path: the directory.
        result: what its ``metrics.json`` holds, or will hold.

    Raises:
        ValueError: it holds several runs, or none.
        RuntimeError: a file is damaged or gone.
    """
    sections, config = _config_of(path)
    if {"tune", "ablate", "protocol"} & sections or "folds" in result:
        raise ValueError(
            f"report.run must name one run or evaluation, got {path}, which holds several; name one of those in it"
        )
    if "train" in sections:
        run, report, kind = RunDirectory(path), result.get("test"), "training run"
        config, logits = run.config(), run.test_logits
        features = identity_if_there(config.features.path)
    else:
        run, report, kind = RunDirectory(config.evaluate.run), result, "evaluation"
        logits, features = storage.join(path, "logits.parquet"), result.get("evaluated", {}).get("features")
    if not isinstance(report, Mapping) or "by_generator" not in report:
        raise ValueError(f"report.run must name a directory of jobs/train.py or jobs/evaluate.py, got {path}")
    if not storage.exists(logits):
        raise RuntimeError(
            f"{logits} is missing, so nobody knows the scores; delete {path}/{EVALUATE.result_file} to start again"
        )
    return Subject(path, kind, config, run, report, result.get("history", []), logits, features)


def _config_of(path: str) -> tuple[set[str], Config]:
    """The sections of a directory's ``config.yaml``, and the config that they come to."""
    place = storage.join(path, "config.yaml")
    if not storage.exists(place):
        raise ValueError(f"report.run must name a directory that a job has written, got {path} without config.yaml")
    try:
        tree = load_yaml(storage.read_bytes(place).decode())
        return set(tree), from_dict(tree)
    except ValueError as error:
        raise RuntimeError(f"{place} is not the config of a run: {error}; delete {path} to make it anew") from error
