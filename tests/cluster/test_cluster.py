"""The cluster's YAML, and a submitted job that is stopped: what it shows, and how it goes on."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml
from _mlflow import mlflow_server
from _started_node import answers
from mlflow import MlflowClient

from rdd import storage
from rdd.schema import features_schema

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_the_cluster_file_passes_rays_own_schema_and_its_files_exist() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(Path("ray_cluster.yaml").read_text())
    validate_config(prepare_config(config))  # as ray up does
    assert config["head_node_type"] in config["available_node_types"]
    assert all(Path(source).exists() for source in config["file_mounts"].values() if not source.startswith("~"))
    for script in Path("cluster").glob("**/*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


TOKEN = "a-token-of-this-test-alone-0123456789"
PLANTED = {
    name: f"planted-{name.lower().replace('_', '-')}" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
}
PASSWORD = "planted-password-of-mlflow"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    """A server's address."""
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow") as address:
        yield address


@pytest.fixture
def head(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Environment of whoever may talk to a head of its own, with token authentication and secrets in its environment."""
    token, port, folder = tmp_path / "token", free_port(), Path("/tmp") / f"ray-{os.getpid()}"
    token.write_text(TOKEN)
    dashboard = free_port()
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    words = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}"]
    words += [f"--temp-dir={folder}", "--disable-usage-stats", f"--dashboard-agent-listen-port={free_port()}"]
    secret = dict(PLANTED)
    if "mlflow" in request.fixturenames:
        secret["MLFLOW_TRACKING_URI"] = request.getfixturevalue("mlflow").replace("://", f"://ann:{PASSWORD}@")
    process = subprocess.Popen(
        words, env=env | secret, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 90
    while not answers(f"{address}/api/version") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert process.poll() is None
    yield env | {"RAY_API_SERVER_ADDRESS": address, "CLUSTER_ADDRESS": f"127.0.0.1:{port}", "RAY_FOLDER": str(folder)}
    process.send_signal(signal.SIGTERM)  # --block ends what it started
    process.wait(60)


def write_features(folder: Path) -> None:
    """Sixty records of a real and a generated image each, easy to tell apart."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(60):
        vectors = torch.randn(2, 8, generator=generator) + torch.tensor([[0.0], [4.0]])
        rows.append({"record_id": f"r{i}", "generators": ["real", "sd"], "projected": vectors.half().numpy().tobytes()})
    schema = features_schema(["projected"])
    full = [{name: row.get(name) for name in schema.names} for row in rows]
    storage.write_table(str(folder / "data" / "a.parquet"), pa.Table.from_pylist(full, schema=schema))
    manifest = {"embed_dim": 8, "text": False, "records_written": 60, "images": 120}
    manifest["features"] = {"projected": {"width": 8, "dtype": "float16"}}
    storage.write_json(str(folder / "manifest.json"), manifest | {"encoder": {"model": "none", "embed_dim": 8}})


def submit(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    """Submit, again while the new head's agent is still on its way."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=240)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def job(name: str, tmp_path: Path, values: dict[str, object]) -> list[str]:
    """Words that submit a job on small features."""
    common = {
        "features.path": tmp_path / "features",
        "features.text_mode": "none",
        "features.validation_share": 0.3,
        "features.test_share": 0.3,
        "model.hidden": 64,
        "optimizer.lr": 0.003,
        "train.batch_size": 32,
        "train.threads_per_worker": 1,
        "tracking.enabled": "false",
    }
    settings = [word for path, value in (common | values).items() for word in (f"--{path}", str(value))]
    return ["ray", "job", "submit", "--working-dir", ".", "--", "python", f"jobs/{name}.py", *settings]


def ray_job(action: str, *words: str, env: dict[str, str]) -> str:
    """What ``ray job`` prints."""
    done = subprocess.run(["ray", "job", action, *words], env=env, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout + done.stderr


@contextlib.contextmanager
def command_lines_seen() -> Iterator[set[bytes]]:
    """The command lines of all processes of this machine while it is open."""
    seen: set[bytes] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # it has ended
                    seen.add(file.read_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def files_in(*folders: Path) -> dict[str, bytes]:
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {str(path): path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}


@pytest.mark.slow
def test_a_stopped_job_goes_on_and_no_job_shows_a_secret(head: dict[str, str], mlflow: str, tmp_path: Path) -> None:
    write_features(tmp_path / "features")
    run = tmp_path / "run"
    values = {"train.epochs": 600, "train.output": run, "scaling.num_workers": 1, "scaling.cpus_per_worker": 0.5}
    words = job("train", tmp_path, values | {"tracking.enabled": "true"})
    words[3:3] = ["--runtime-env", "cluster/runtime_env.yaml"]
    with command_lines_seen() as command_lines:
        stopped = submit([*words[:3], "--submission-id", "stopped", "--no-wait", *words[3:]], head)
        assert stopped.returncode == 0, stopped.stderr
        history = run / "checkpoints" / "history.json"
        deadline = time.monotonic() + 120
        while not history.exists():
            assert time.monotonic() < deadline, ray_job("logs", "stopped", env=head)
            time.sleep(0.2)
        ray_job("stop", "stopped", env=head)
        assert not (run / "metrics.json").exists()
        ended = ray_job("logs", "stopped", env=head)
        assert "train was ended by SIGTERM; the same command goes on where it stopped" in ended
        (tracked,) = MlflowClient(mlflow).search_runs(["1"])
        assert tracked.info.status == "KILLED"
        kept = json.loads(history.read_text())

        done = submit(words, head)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert json.loads(history.read_text())[: len(kept)] == kept  # its times, too: they were not trained again
        (tracked,) = MlflowClient(mlflow).search_runs(["1"])
        assert tracked.info.status == "FINISHED"
        assert {"system/busy_share", "time/stage_s"} <= tracked.data.metrics.keys()

        refused = submit([*words, "--loss.alpha", "7"], head)
        assert refused.returncode == 1  # Ray's own code for whatever a job fails with
        assert "error: loss.alpha must lie in (0, 1], got 7" in refused.stdout
        jobs = ray_job("list", env=head)
        assert "driver_exit_code=2" in jobs

    first = done.stdout.index(f"this job in Ray's dashboard: {head['RAY_API_SERVER_ADDRESS']}/#/jobs/")
    linked = done.stdout.index(f"this run in MLflow: {mlflow}/#/experiments/1/runs/{tracked.info.run_id}")
    assert first < linked < done.stdout.index("epoch ")
    shown = {"jobs": jobs.encode(), "command lines": b"\n".join(command_lines), "its output": done.stdout.encode()}
    places = shown | files_in(run, tmp_path / "mlflow", Path(head["RAY_FOLDER"]))
    for secret in (*PLANTED.values(), TOKEN, PASSWORD):
        assert [place for place, content in places.items() if secret.encode() in content] == [], secret
    # the search has looked where something is
    assert "http://ann:***@" in done.stdout
    assert b"raylet" in shown["command lines"]
    assert str(run).encode() in places[str(tmp_path / "mlflow" / "mlflow.db")]
    assert any("/logs/job-driver-stopped.log" in place for place in places)
