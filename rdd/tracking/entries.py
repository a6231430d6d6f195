"""What is logged of a run, as values: they can be sent to MLflow now, or written down and sent later."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rdd import storage
from rdd.config.secrets import without_password
from rdd.provenance import git_commit
from rdd.tracking.models import send_model, send_version

What = Literal["begin", "params", "metrics", "artefacts", "tags", "model", "register", "end"]

SHAPE = {"what": str, "values": dict, "run": {"job": str, "place": str, "name": str, "tags": dict, "parent": object}}
"""Of an entry that is written down."""


@dataclass(frozen=True)
class RunIdentity:
    """What finds a run in MLflow again, or begins it."""

    job: str
    """The stage; of a run below another, that one's with the kind of run."""
    place: str
    """Its output directory: the same directory gets the same run of a job."""
    name: str
    tags: Mapping[str, str]
    parent: "RunIdentity | None" = None

    @property
    def key(self) -> tuple[str, str]:
        """What it is found by."""
        return self.job, self.place


@dataclass(frozen=True)
class Entry:
    """Something that a run's page is to show; sent twice, it changes nothing."""

    run: RunIdentity
    what: What
    values: Mapping[str, Any]
    """Of JSON: settings and tags by their names; else what its sender below takes."""

    def send(self, client: Any, run_id: str) -> None:
        """Send it; raises what ``mlflow.MlflowClient`` raises."""
        _SENDERS[self.what](client, run_id, self.values)

    def to_json(self) -> dict[str, Any]:
        """As it is written down."""
        return asdict(self)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "Entry":
        """As it was written down."""
        return cls(_identity(written["run"]), written["what"], written["values"])


def begin(client: Any, experiment_id: str, run: RunIdentity, parent_id: str | None) -> str:
    """Id of a run: of the one that its output directory had, or of a new one."""
    runs = client.search_runs([experiment_id], f"{_of_place(run.place)} and tags.`rdd.job` = '{run.job}'", max_results=1)
    if runs:
        client.update_run(runs[0].info.run_id, status="RUNNING")
        return runs[0].info.run_id
    described = {"rdd.job": run.job, "rdd.output": run.place, "mlflow.source.git.commit": git_commit()}
    below = {"mlflow.parentRunId": parent_id} if parent_id else {}
    return client.create_run(experiment_id, run_name=run.name, tags={**described, **below, **run.tags}).info.run_id


def runs_of(client: Any, experiment: str, place: str) -> list[str]:
    """Ids of the runs of an output directory, of whatever job; raises what the client raises."""
    known = client.get_experiment_by_name(experiment)
    runs = client.search_runs([known.experiment_id], _of_place(place)) if known else []
    return [run.info.run_id for run in runs]


def _of_place(place: str) -> str:
    """Search for the runs of an output directory."""
    quote = '"' if "'" in place else "'"
    return f"tags.`rdd.output` = {quote}{place}{quote}"


def _identity(written: Mapping[str, Any]) -> RunIdentity:
    parent = written["parent"]
    return RunIdentity(
        written["job"], written["place"], written["name"], written["tags"], _identity(parent) if parent else None
    )


def _params(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    params = [Param(name, without_password(str(value))) for name, value in values.items() if name not in known]
    for start in range(0, len(params), 100):  # the server's limit
        client.log_batch(run_id, params=params[start : start + 100])


def _metrics(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(name, value, values["time_ms"], values["step"]) for name, value in values["values"].items()]
    client.log_batch(run_id, metrics=metrics)


def _artefacts(client: Any, run_id: str, values: Mapping[str, Any]) -> None:
    path, name, only = values["path"], values["name"], values["only"]
    if not storage.exists(path):  # no figure could be drawn
        return
    if not storage.is_remote(path) and not only:
        client.log_artifacts(run_id, path, name)
        return
    there = [file.path for file in storage.list_files(path)]
    files = [file for file in there if not only or file in {storage.join(path, name) for name in only}]
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            target = Path(folder, file[len(path) + 1 :])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(storage.read_bytes(file))
        client.log_artifacts(run_id, folder, name)


def _tags(client: Any, run_id: str, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        client.set_tag(run_id, name, value)


_SENDERS: dict[What, Callable[[Any, str, Mapping[str, Any]], None]] = {
    "begin": lambda client, run_id, values: None,  # whose id is known has begun
    "params": _params,
    "metrics": _metrics,
    "artefacts": _artefacts,
    "tags": _tags,
    "model": send_model,
    "register": send_version,
    "end": lambda client, run_id, values: client.set_terminated(run_id, values["status"]),
}
