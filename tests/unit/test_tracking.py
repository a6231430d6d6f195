from pathlib import Path

import pytest

from rdd.config import TrackingConfig
from rdd.tracking.pages import training_page
from rdd.tracking.tracker import MlflowTracker, NullTracker, tracked


class Client:
    """A client whose server is away now and then; remembers what arrived."""

    def __init__(self) -> None:
        self.away = False
        self.arrived: list[tuple] = []

    def log_batch(self, run_id: str, metrics=(), params=()) -> None:
        if self.away:
            raise ConnectionError("away")
        self.arrived += [(metric.key, metric.value, metric.step) for metric in metrics]

    def set_terminated(self, run_id: str, status: str) -> None:
        if self.away:
            raise ConnectionError("away")
        self.arrived.append((status,))


def test_what_could_not_be_logged_is_logged_later_in_order(caplog) -> None:
    caplog.set_level("WARNING", logger="rdd")
    client = Client()
    tracker = MlflowTracker(client, "run")
    tracker.metrics({"a": 1.0}, step=1)
    client.away = True
    tracker.metrics({"a": 2.0}, step=2)
    tracker.metrics({"a": 3.0}, step=3)
    assert "logging later" in caplog.text
    client.away = False
    tracker.metrics({"a": 4.0}, step=4)
    tracker.close("FINISHED")
    assert client.arrived == [("a", 1.0, 1), ("a", 2.0, 2), ("a", 3.0, 3), ("a", 4.0, 4), ("FINISHED",)]


def test_what_never_arrived_is_said(caplog) -> None:
    caplog.set_level("WARNING", logger="rdd")
    client = Client()
    client.away = True
    tracker = MlflowTracker(client, "run")
    tracker.metrics({"a": 1.0}, step=1)
    tracker.close("FINISHED")
    assert "did not take 2 entries" in caplog.text


def test_a_job_that_raises_is_a_failed_run(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="trial")
    with pytest.raises(KeyError), tracked(config, job="train", output=str(tmp_path / "run")):
        raise KeyError
    client = MlflowClient(config.uri)
    experiment = client.get_experiment_by_name("trial")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    with tracked(config, job="train", output=str(tmp_path / "run")):
        pass
    (again,) = client.search_runs([experiment.experiment_id])
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    page = training_page(config)
    assert page.startswith(f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning")
    assert f"mlflow.sharedViewState.{page.split('viewStateShareKey=')[1]}" in client.get_experiment("1").tags


def test_tracking_can_be_off(tmp_path: Path) -> None:
    with tracked(TrackingConfig(enabled=False), job="train", output=str(tmp_path)) as tracker:
        assert isinstance(tracker, NullTracker)
        tracker.metrics({"a": 1.0}, step=1)
