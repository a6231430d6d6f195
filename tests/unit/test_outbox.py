"""What becomes of entries while MLflow is away: later, in their order, and kept where it stays away."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _mlflow_client import Client

from rdd.config import TrackingConfig
from rdd.tracking import outbox, tracker
from rdd.tracking.entries import RunIdentity
from rdd.tracking.outbox import Outbox, kept_file
from rdd.tracking.tracker import MlflowTracker, bring_in

AWAY = ConnectionError("away")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RETRY_S", 0.05)


def tracker_of(client: Client, folder: Path) -> MlflowTracker:
    return MlflowTracker(Outbox(client, "rdd", str(folder)), RunIdentity("train", str(folder), "run", {}))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_could_not_be_logged_is_logged_later_in_order(caplog, tmp_path: Path) -> None:
    caplog.set_level("INFO", logger="rdd")
    client = Client()
    run = tracker_of(client, tmp_path)
    run.metrics({"a": 1.0}, step=1)
    client.fault = AWAY
    run.metrics({"a": 2.0}, step=2)
    run.metrics({"a": 3.0}, step=3)
    assert caplog.text.count("MLflow does not answer, logging later: away") == 1
    assert Path(kept_file(str(tmp_path))).exists()
    client.fault = None
    wait_for(lambda: "MLflow answers again and has all that waited" in caplog.text)
    assert not Path(kept_file(str(tmp_path))).exists()
    run.metrics({"a": 4.0}, step=4)
    run.close("FINISHED")
    assert client.arrived == [("a", 1.0, 1), ("a", 2.0, 2), ("a", 3.0, 3), ("a", 4.0, 4), ("FINISHED",)]
    assert "this run in MLflow: http://mlflow.example/#/experiments/1/runs/train" in caplog.text


def test_work_is_held_up_by_one_attempt_of_an_absence(tmp_path: Path) -> None:
    callers: list[str] = []

    class Hanging(Client):
        def log_batch(self, run_id: str, metrics=(), params=()) -> None:
            if self.fault is not None:
                callers.append(threading.current_thread().name)
            super().log_batch(run_id, metrics, params)

    client = Hanging()
    run = tracker_of(client, tmp_path)
    run.metrics({"a": 0.0}, step=0)
    client.fault = AWAY
    for step in range(1, 6):
        run.metrics({"a": float(step)}, step=step)
    wait_for(lambda: callers.count("mlflow-away") > 1)
    assert callers.count("MainThread") == 1
    client.fault = None
    run.close("FINISHED")
    assert [step for _, _, step in client.arrived[:-1]] == [0, 1, 2, 3, 4, 5]


def test_a_job_that_is_done_waits_for_a_server_that_was_there(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="rdd")
    client = Client()
    run = tracker_of(client, tmp_path)
    run.metrics({"a": 1.0}, step=1)
    client.fault = AWAY
    back = threading.Timer(0.5, lambda: setattr(client, "fault", None))
    back.start()
    run.close("FINISHED")
    assert client.arrived[-1] == ("FINISHED",)
    assert "waiting up to 60 s for MLflow" in caplog.text
    assert "did not take" not in caplog.text


def test_what_never_arrived_is_said_and_kept_and_the_same_command_brings_it_in(
    caplog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="rdd")
    client = Client()
    client.fault = AWAY
    run = tracker_of(client, tmp_path)  # it was never there, so that nobody waits for it
    run.begin()
    run.params({"loss.alpha": 0.8})
    child = run.child("one", str(tmp_path / "one"), "seed")
    child.metrics({"a": 1.0, "infinite": float("inf")}, step=1)
    child.close("FINISHED")
    run.close("FINISHED")
    assert (
        f"MLflow did not take 5 entries of this job (begin 1, params 1, metrics 1, end 2); they are kept in "
        f"{tmp_path}/.waiting-for-mlflow.json, and the same command brings them in once it answers"
    ) in caplog.text
    assert "waiting up to" not in caplog.text
    assert client.arrived == []

    client.fault = None
    monkeypatch.setattr(tracker, "_client", lambda config: client)
    bring_in(TrackingConfig(enabled=False), str(tmp_path))
    assert client.arrived == []
    bring_in(TrackingConfig(), str(tmp_path))
    everything = [("loss.alpha", "0.8"), ("a", 1.0, 1), ("infinite", float("inf"), 1), ("FINISHED",), ("FINISHED",)]
    assert client.arrived == everything
    bring_in(TrackingConfig(), str(tmp_path))
    assert client.arrived == everything


def test_a_job_that_goes_on_sends_first_what_was_kept(tmp_path: Path) -> None:
    client = Client()
    client.fault = AWAY
    tracker_of(client, tmp_path).metrics({"a": 1.0}, step=1)  # and is killed
    client.fault = None
    run = tracker_of(client, tmp_path)
    run.metrics({"a": 2.0}, step=2)
    run.close("FINISHED")
    assert ("a", 1.0, 1) in client.arrived
    assert client.arrived.index(("a", 1.0, 1)) < client.arrived.index(("a", 2.0, 2))
    assert not Path(kept_file(str(tmp_path))).exists()


def test_what_the_server_refuses_does_not_hold_up_what_follows(caplog, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    class Strict(Client):
        def log_batch(self, run_id: str, metrics=(), params=()) -> None:
            if any(metric.key == "bad" for metric in metrics):
                raise MlflowException("the name bad is not allowed", error_code=INVALID_PARAMETER_VALUE)
            super().log_batch(run_id, metrics, params)

    caplog.set_level("WARNING", logger="rdd")
    client = Strict()
    run = tracker_of(client, tmp_path)
    run.metrics({"bad": 1.0}, step=1)
    run.metrics({"a": 2.0}, step=2)
    run.close("FINISHED")
    assert client.arrived == [("a", 2.0, 2), ("FINISHED",)]
    assert "MLflow refuses an entry, which is left out: " in caplog.text
    assert "did not take" not in caplog.text


@pytest.mark.parametrize("code", ["REQUEST_LIMIT_EXCEEDED", "UNAUTHENTICATED", "PERMISSION_DENIED", "TEMPORARILY_UNAVAILABLE"])
def test_a_server_that_is_busy_or_wants_another_password_is_asked_again(code: str, tmp_path: Path) -> None:
    from mlflow.exceptions import RestException

    client = Client()
    run = tracker_of(client, tmp_path)
    run.begin()
    client.fault = RestException({"error_code": code, "message": "not now"})
    run.metrics({"a": 1.0}, step=1)
    client.fault = None
    run.close("FINISHED")
    assert client.arrived == [("a", 1.0, 1), ("FINISHED",)]


def test_figures_that_could_not_be_drawn_hold_nothing_up(tmp_path: Path) -> None:
    client = Client()
    run = tracker_of(client, tmp_path)
    run.artefacts(str(tmp_path / "figures"), "figures")
    run.close("FINISHED")
    assert client.arrived == [("FINISHED",)]


def test_what_is_kept_and_damaged_is_one_sentence(tmp_path: Path) -> None:
    Path(kept_file(str(tmp_path))).write_text('{"entries": [{"what": "metrics"}]}')
    with pytest.raises(RuntimeError, match="delete it to go on without what it holds"):
        tracker_of(Client(), tmp_path)
