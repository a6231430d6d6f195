"""The cluster's YAML, and a submitted job that is stopped: what it shows, and how it goes on."""

import contextlib
import dataclasses
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from _mlflow import mlflow_server
from _small import write_small_features
from _started_node import Node, head
from mlflow import MlflowClient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_the_cluster_file_passes_rays_own_schema_and_its_files_exist() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(Path("ray_cluster.yaml").read_text())
    validate_config(prepare_config(config))  # as ray up does
    assert config["head_node_type"] in config["available_node_types"]
    assert all(Path(source).exists() for source in config["file_mounts"].values() if not source.startswith("~"))
    for script in Path("cluster").glob("**/*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


PLANTED = {
    name: f"planted-{name.lower().replace('_', '-')}" for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
}
PASSWORD = "planted-password-of-mlflow"


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    """A server's address."""
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow") as address:
        yield address


@pytest.fixture
def node(mlflow: str, tmp_path: Path) -> Iterator[Node]:
    """A head with secrets in its environment, one of them in the address of MLflow."""
    secrets = PLANTED | {"MLFLOW_TRACKING_URI": mlflow.replace("://", f"://ann:{PASSWORD}@")}
    with head(tmp_path, secrets, num_cpus="2") as started:
        client = {name: value for name, value in started.environment.items() if name not in secrets}
        yield dataclasses.replace(started, environment=client)


def submit(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    """Submit, again while the new head's agent is still on its way."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=240)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def training(folder: Path, values: dict[str, object]) -> list[str]:
    """Words that submit a training on small features."""
    settings = {
        "features.path": write_small_features(folder / "features"),
        "features.text_mode": "none",
        "model.hidden": 64,
        "train.batch_size": 32,
        "train.threads_per_worker": 1,
        **values,
    }
    words = [word for path, value in settings.items() for word in (f"--{path}", str(value))]
    submit = ["ray", "job", "submit", "--runtime-env", "cluster/runtime_env.yaml", "--working-dir", "."]
    return [*submit, "--", "python", "jobs/train.py", *words]


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
def test_a_stopped_job_goes_on_and_no_job_shows_a_secret(node: Node, mlflow: str, tmp_path: Path) -> None:
    run, env = tmp_path / "run", node.environment
    values = {"train.epochs": 600, "train.output": run, "scaling.num_workers": 1, "scaling.cpus_per_worker": 0.5}
    words = training(tmp_path, values)
    with command_lines_seen() as command_lines:
        stopped = submit([*words[:3], "--submission-id", "stopped", "--no-wait", *words[3:]], env)
        assert stopped.returncode == 0, stopped.stderr
        history = run / "checkpoints" / "history.json"
        deadline = time.monotonic() + 120
        while not history.exists():
            assert time.monotonic() < deadline, ray_job("logs", "stopped", env=env)
            time.sleep(0.2)
        ray_job("stop", "stopped", env=env)
        assert not (run / "metrics.json").exists()
        ended = ray_job("logs", "stopped", env=env)
        assert "train was ended by SIGTERM; the same command goes on where it stopped" in ended
        (tracked,) = MlflowClient(mlflow).search_runs(["1"])
        assert tracked.info.status == "KILLED"
        kept = json.loads(history.read_text())

        done = submit(words, env)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert json.loads(history.read_text())[: len(kept)] == kept  # its times, too: they were not trained again
        (tracked,) = MlflowClient(mlflow).search_runs(["1"])
        assert tracked.info.status == "FINISHED"
        assert {"system/busy_share", "time/stage_s"} <= tracked.data.metrics.keys()

        refused = submit([*words, "--loss.alpha", "7"], env)
        assert refused.returncode == 1  # Ray's own code for whatever a job fails with
        assert "error: loss.alpha must lie in (0, 1], got 7" in refused.stdout
        jobs = ray_job("list", env=env)
        assert "driver_exit_code=2" in jobs

    first = done.stdout.index(f"this job in Ray's dashboard: {env['RAY_API_SERVER_ADDRESS']}/#/jobs/")
    linked = done.stdout.index(f"this run in MLflow: {mlflow}/#/experiments/1/runs/{tracked.info.run_id}")
    assert first < linked < done.stdout.index("epoch ")
    shown = {"jobs": jobs.encode(), "command lines": b"\n".join(command_lines), "its output": done.stdout.encode()}
    places = shown | files_in(run, tmp_path / "mlflow", node.folder)
    token = Path(env["RAY_AUTH_TOKEN_PATH"]).read_text()
    for secret in (*PLANTED.values(), token, PASSWORD):
        assert [place for place, content in places.items() if secret.encode() in content] == [], secret
    # the search has looked where something is
    assert "http://ann:***@" in done.stdout
    assert b"raylet" in shown["command lines"]
    assert str(run).encode() in places[str(tmp_path / "mlflow" / "mlflow.db")]
    assert any("/logs/job-driver-stopped.log" in place for place in places)
