"""A training whose MLflow server, on PostgreSQL, is killed and started again: all of it arrives, and a person reads it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _mlflow_head import Head, command_lines_with, free_port, listening
from _postgres import PASSWORD, Postgres, postgres, postgres_folder
from _small import write_small_features

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
EPOCHS = 80

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(postgres_folder() is None, reason="no PostgreSQL here: apt-get install postgresql"),
]


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def head(database: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    words = ("--artefacts", str(home / "artefacts"), "--store", database.uri)
    head = Head(home, free_port(), words)
    refused = head.serve("--detach")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"the database {database.uri} can not be used: " in refused.stderr
    assert "no password supplied" in refused.stderr
    database.let_in(home)
    head.start()
    yield head
    assert head.serve("--stop").returncode == 0


def kill(head: Head) -> None:
    """With -9, as the kernel does when memory runs out; what it has started lets go of the port."""
    os.kill(json.loads((head.home / "mlflow" / "lock").read_text())["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while listening(head.port):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_epoch(run: Path, epoch: int, job: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    history = run / "checkpoints" / "history.json"
    while not history.exists() or len(json.loads(history.read_text())) < epoch:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_training_goes_on_while_mlflow_is_away_and_all_of_it_arrives(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    features, run = write_small_features(tmp_path / "features"), tmp_path / "run"
    words = ["--features.path", str(features), "--features.text_mode", "none", "--scaling.num_workers", "0"]
    words += ["--train.epochs", str(EPOCHS), "--train.batch_size", "32", "--model.hidden", "32", "--train.output", str(run)]
    command = [sys.executable, "jobs/train.py", *words]
    env = head.environment | {"MLFLOW_TRACKING_URI": head.address}
    job = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_epoch(run, 5, job)
    assert command_lines_with([head.login()[1], PASSWORD]) == []
    kill(head)
    wait_for_epoch(run, 15, job)  # it goes on
    kept = run / ".waiting-for-mlflow.json"
    while not kept.exists() and job.poll() is None:
        time.sleep(0.05)
    assert kept.exists()
    head.start()
    out, err = job.communicate(timeout=300)
    assert job.returncode == 0, err
    assert "MLflow does not answer, logging later" in err
    assert "MLflow answers again and has all that waited" in err
    assert f"this run in MLflow: {head.address}/#/experiments/1/runs/" in err
    assert json.loads(out.splitlines()[-1])["epochs"] == EPOCHS
    assert not kept.exists()

    monkeypatch.setenv("HOME", str(head.home))
    client = MlflowClient(head.address)
    (tracked,) = client.search_runs([client.get_experiment_by_name("rdd").experiment_id])
    assert tracked.info.status == "FINISHED"
    history = client.get_metric_history(tracked.info.run_id, "val/auroc")
    assert sorted(point.step for point in history) == list(range(1, EPOCHS + 1))  # each once
    assert client.list_artifacts(tracked.info.run_id, "detector")

    if os.path.exists(CHROMIUM):
        address = next(line.split(": ", 1)[1] for line in err.splitlines() if "this run in MLflow: " in line)
        read_in_a_browser(head, address)


def read_in_a_browser(head: Head, address: str) -> None:
    """The address as the job printed it: refused without a login, and the run's numbers with it."""
    from playwright.sync_api import sync_playwright

    user, password = head.login()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        stranger = browser.new_context().new_page()
        assert stranger.request.get(head.address).status == 401
        viewport = {"width": 1440, "height": 900}
        page = browser.new_context(viewport=viewport, http_credentials={"username": user, "password": password}).new_page()
        page.goto(address)
        page.get_by_text("val/auroc").first.wait_for(timeout=60_000)
        if folder := os.environ.get("RDD_SCREENSHOTS"):
            page.wait_for_timeout(1500)
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{folder}/mlflow-behind-its-password.png")
        browser.close()
