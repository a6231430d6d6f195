"""Jobs that a signal ends while Ray and MLflow are at work: the exit code, one sentence, no process and no open run left."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from _small import base_config
from PIL import Image

from rdd.config.parse import override, to_yaml

pytestmark = pytest.mark.timeout(300)

LONG = {"train.epochs": 100_000}  # longer than any test
MARK = "RDD_TEST_SIGNALS"
SILENT = socket.create_server(("127.0.0.1", 0))


@contextlib.contextmanager
def job(stage: str, values: Mapping[str, Any], features: Path, place: Path) -> Iterator[subprocess.Popen[str]]:
    """A job in a session of its own, like that of a terminal, with MLflow on SQLite; what it wrote is in ``err``."""
    config = override(base_config(features, place), {"cluster.num_cpus": 2, **values})
    (place / "config.yaml").write_text(to_yaml(config))
    words = [sys.executable, f"jobs/{stage}.py", "--config", str(place / "config.yaml")]
    with (
        (place / "err").open("w") as err,
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            start_new_session=True,
            env=os.environ | {MARK: str(place)},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()
            for pid in left_behind(place):
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


def left_behind(place: Path) -> list[int]:
    """Processes with the job's mark in their environment."""
    mark = f"{MARK}={place}".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
    return found


def wait_until(there: Callable[[], bool], process: subprocess.Popen[str], place: Path) -> None:
    deadline = time.monotonic() + 200
    while not there():
        assert process.poll() is None, (place / "err").read_text()
        assert time.monotonic() < deadline, (place / "err").read_text()
        time.sleep(0.05)


def check_end(process: subprocess.Popen[str], place: Path, stage: str, number: signal.Signals) -> None:
    """The exit code, nothing on standard output, one sentence after the log, and no process left."""
    out, _ = process.communicate(timeout=30)
    remaining = left_behind(place)
    err = (place / "err").read_text()
    assert process.returncode == 128 + number, err
    assert out == ""
    *log, last = err.splitlines()
    assert last == f"{stage} was ended by {number.name}; the same command goes on where it stopped"
    of_log = r"\d\d:\d\d:\d\d |.* logging.cc:\d+: Set ray log level"  # the last is Ray's own when it starts
    assert [line for line in log if not re.match(of_log, line)] == []
    assert remaining == []


def runs_in(place: Path) -> list[Any]:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{place}/mlflow.db").search_runs(["1"])


def settings_and_sign(stage: str, place: Path) -> tuple[dict[str, Any], Callable[[], bool]]:
    """Settings of a job that would take hours, and what says that its work is under way."""
    histories = "**/checkpoints/history.json"
    if stage == "tune":
        space = {"loss.alpha": {"uniform": [0.2, 1.0]}}
        settings = LONG | {"tune.output": str(place / "sweep"), "tune.space": space, "tune.num_trials": 4}
        return settings, lambda: len(list(place.glob(histories))) == 2
    if stage == "ablate":
        rows = {"ours": {}, "without_sam": {"sam.enabled": False}}
        settings = LONG | {"ablate.output": str(place / "ablation"), "ablate.rows": rows, "ablate.seeds": 2}
        return settings, lambda: len(list(place.glob(histories))) == 2
    if stage == "embed":
        return write_endless_records(place), lambda: bool(list(place.glob("features/data/*.parquet")))
    return LONG, lambda: bool(list(place.glob(histories)))


def write_endless_records(place: Path) -> dict[str, Any]:
    """Images, the last of which lies on a server that takes requests and never answers."""
    for i in range(12):
        Image.new("RGB", (32, 32), (i, i, i)).save(place / f"{i}.png")
    images = [*(f"{i}.png" for i in range(12)), f"http://127.0.0.1:{SILENT.getsockname()[1]}/12.png"]
    rows = "".join(f"{image},0,real\n" for image in images)
    (place / "manifest.csv").write_text(f"path,label,generator\n{rows}")
    return {
        "records.kind": "manifest",
        "records.path": str(place / "manifest.csv"),
        "records.root": "any",
        "clip.pretrained": "random",
        "embed.output": str(place / "features"),
        "embed.text": False,
        "clip.batch_size": 1,  # else a forward pass would wait for the last image
        "embed.records_per_task": 1,
        "embed.records_per_commit": 1,
    }


@pytest.mark.parametrize(
    ("stage", "number", "workers"),
    [
        ("train", signal.SIGTERM, 0),
        pytest.param("train", signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param("tune", signal.SIGTERM, 1, marks=pytest.mark.slow),
        pytest.param("ablate", signal.SIGINT, 0, marks=pytest.mark.long),
        pytest.param("embed", signal.SIGTERM, 0, marks=pytest.mark.slow),
        pytest.param("embed", signal.SIGINT, 0, marks=pytest.mark.long),
    ],
)
def test_a_signal_ends_a_job_and_all_that_belongs_to_it(
    stage: str, number: signal.Signals, workers: int, features: Path, tiny_model: str, tmp_path: Path
) -> None:
    settings, at_work = settings_and_sign(stage, tmp_path)
    settings |= {"clip.model": tiny_model, "scaling.num_workers": workers, "scaling.cpus_per_worker": 0.5}
    with job(stage, settings, features, tmp_path) as process:
        wait_until(at_work, process, tmp_path)
        wait_until(lambda: len(runs_in(tmp_path)) >= (3 if stage in ("tune", "ablate") else 1), process, tmp_path)
        # Ctrl-C of a terminal reaches a whole process group
        (process.send_signal if number == signal.SIGTERM else lambda number: os.killpg(process.pid, number))(number)
        check_end(process, tmp_path, stage, number)
    assert {run.info.status for run in runs_in(tmp_path)} == {"KILLED"}
