import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rdd.config import TrackingConfig
from rdd.tracking.pages import page_of, pages
from rdd.tracking.run_metrics import log_epoch
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


def test_what_the_server_refuses_does_not_hold_up_what_follows(caplog) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    class Strict(Client):
        def log_batch(self, run_id: str, metrics=(), params=()) -> None:
            if any(metric.key == "bad" for metric in metrics):
                raise MlflowException("the name bad is not allowed", error_code=INVALID_PARAMETER_VALUE)
            super().log_batch(run_id, metrics, params)

    caplog.set_level("WARNING", logger="rdd")
    client = Strict()
    tracker = MlflowTracker(client, "run")
    tracker.metrics({"bad": 1.0}, step=1)
    tracker.metrics({"a": 2.0}, step=2)
    tracker.close("FINISHED")
    assert client.arrived == [("a", 2.0, 2), ("FINISHED",)]
    assert "MLflow refuses an entry, which is left out: " in caplog.text
    assert "did not take" not in caplog.text


def test_a_server_that_is_too_busy_is_asked_again(caplog) -> None:
    from mlflow.exceptions import RestException

    class Busy(Client):
        def log_batch(self, run_id: str, metrics=(), params=()) -> None:
            if self.away:
                raise RestException({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "slow down"})
            super().log_batch(run_id, metrics, params)

    client = Busy()
    tracker = MlflowTracker(client, "run")
    client.away = True
    tracker.metrics({"a": 1.0}, step=1)
    client.away = False
    tracker.close("FINISHED")
    assert client.arrived == [("a", 1.0, 1), ("FINISHED",)]


def test_figures_that_could_not_be_drawn_hold_nothing_up(tmp_path: Path) -> None:
    client = Client()
    tracker = MlflowTracker(client, "run")
    tracker.artefacts(str(tmp_path / "figures"), "figures")
    tracker.close("FINISHED")
    assert client.arrived == [("FINISHED",)]


def test_a_password_in_the_address_of_the_server_is_not_written(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="rdd")
    config = TrackingConfig(uri="http://ann:planted-secret@127.0.0.1:9/mlflow")
    with tracked(config, job="train", output=str(tmp_path / "run")):
        pass
    assert "tracking in MLflow at http://ann:***@127.0.0.1:9/mlflow" in caplog.text
    assert "not tracked" in caplog.text
    assert "planted-secret" not in caplog.text


@pytest.mark.timeout(60)  # MLflow itself would try for minutes
def test_a_database_that_can_not_be_opened_is_a_warning(tmp_path: Path, caplog) -> None:
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}")
    with tracked(config, job="train", output=str(tmp_path / "out")) as tracker:
        assert isinstance(tracker, NullTracker)
    assert "so this run is not tracked: " in caplog.text


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
    page = page_of(config, "training")
    assert page.startswith(f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning")
    assert pages(config, server="http://here") == {"single training runs": page.replace("http://127.0.0.1:5000", "http://here")}
    assert f"mlflow.sharedViewState.{page.split('viewStateShareKey=')[1]}" in client.get_experiment("1").tags


def test_tracking_can_be_off(tmp_path: Path) -> None:
    with tracked(TrackingConfig(enabled=False), job="train", output=str(tmp_path)) as tracker:
        assert isinstance(tracker, NullTracker)
        tracker.metrics({"a": 1.0}, step=1)


def test_an_epoch_is_logged_once_for_all_stages_rounded_and_without_what_is_no_number() -> None:
    client = Client()
    metrics = {"epoch": 3, "val/auroc": 0.123456789012, "train/loss": 1.23456789, "train/sharpness": float("nan")}
    log_epoch(MlflowTracker(client, "run"), metrics)
    assert client.arrived == [("val/auroc", 0.12345679, 3), ("train/loss", 1.23457, 3)]


def test_a_busy_port_is_a_sentence_and_exit_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = [sys.executable, "-m", "rdd.tracking.ui", "--port", str(port)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"MLFLOW_TRACKING_URI": ""})
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"error: port {port} can not be used (Address already in use); choose another: make ui PORT={port + 1}\n"
    )


@pytest.mark.timeout(120)
def test_the_server_of_the_pages_ends_with_all_its_processes(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    words = [sys.executable, "-m", "rdd.tracking.ui", "--port", str(port)]
    with (tmp_path / "err").open("w") as err:
        server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=err, env=environment)
    while server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.2)
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 143
    assert "the MLflow server was ended by SIGTERM" in (tmp_path / "err").read_text()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_what_is_no_port_is_a_wrong_request(port: str) -> None:
    words = [sys.executable, "-m", "rdd.tracking.ui", "--port", port]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"MLFLOW_TRACKING_URI": ""})
    assert (done.returncode, done.stderr) == (2, f"error: PORT must lie in [1, 65535], got {port}\n")


def test_an_output_path_with_a_quote_is_tracked(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db")
    for _ in range(2):
        with tracked(config, job="train", output=str(tmp_path / "o'clock")):
            pass
    assert len(MlflowClient(config.uri).search_runs(["1"])) == 1
