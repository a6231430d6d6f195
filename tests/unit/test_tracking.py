import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _mlflow_client import Client

from rdd.config import TrackingConfig
from rdd.tracking.entries import RunIdentity
from rdd.tracking.outbox import Outbox
from rdd.tracking.pages import page_of, pages
from rdd.tracking.run_metrics import log_epoch
from rdd.tracking.tracker import MlflowTracker, NullTracker, tracked


def test_a_password_in_the_address_of_the_server_is_not_written(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="rdd")
    config = TrackingConfig(uri="http://ann:planted-secret@127.0.0.1:9/mlflow")
    with tracked(config, job="train", output=str(tmp_path / "run")):
        pass
    assert "tracking in MLflow at http://ann:***@127.0.0.1:9/mlflow" in caplog.text
    assert "MLflow does not answer, logging later: " in caplog.text
    assert "MLflow did not take 2 entries of this job (begin 1, end 1); they are kept in " in caplog.text
    assert "planted-secret" not in caplog.text


@pytest.mark.timeout(60)  # MLflow itself would try for minutes
def test_a_database_that_can_not_be_opened_is_a_warning(tmp_path: Path, caplog) -> None:
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}")
    with tracked(config, job="train", output=str(tmp_path / "out")) as tracker:
        assert isinstance(tracker, NullTracker)
    assert "so this run is not tracked: " in caplog.text


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


def test_an_epoch_is_logged_once_for_all_stages_rounded_and_without_what_is_no_number(tmp_path: Path) -> None:
    client = Client()
    tracker = MlflowTracker(Outbox(client, "rdd", str(tmp_path)), RunIdentity("train", str(tmp_path), "run", {}))
    metrics = {"epoch": 3, "val/auroc": 0.123456789012, "train/loss": 1.23456789, "train/sharpness": float("nan")}
    log_epoch(tracker, metrics)
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


@pytest.mark.slow
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
