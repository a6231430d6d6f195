"""Secrets of the environment and passwords in addresses are found in nothing that a job leaves or shows to other users."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from _mlflow import mlflow_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

IN_ENVIRONMENT = {
    name: f"planted-{name.lower().replace('_', '-')}-0123456789abcdef"
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "RAY_AUTH_TOKEN",
    )
}
IN_ADDRESS = "planted-password-of-the-server"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder) as address:
        yield address, folder


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rdd-", dir="/tmp"))  # a short name: Ray's sockets lie in it
    yield folder
    shutil.rmtree(folder)


def watched(words: list[str], env: dict[str, str]) -> tuple[str, str]:
    """What a command prints, and the command lines of all processes below it while it runs."""
    process = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: set[str] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            try:
                seen.update(" ".join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True))
            except psutil.Error:  # one that has just ended
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    assert process.returncode == 0, output
    return output, "\n".join(sorted(seen))


def found_in(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("train", ["--scaling.num_workers", "2", "--scaling.cpus_per_worker", "0.5"]),
        ("tune", ["--tune.num_trials", "2", "--tune.space", json.dumps({"loss.alpha": {"uniform": [0.2, 1.0]}})]),
    ],
)
def test_a_job_writes_and_shows_no_secret(
    job: str, words: list[str], server: tuple[str, Path], features: Path, ray_folder: Path, tmp_path: Path
) -> None:
    address, server_folder = server
    config, home, output = tmp_path / "config.yaml", tmp_path / "home", tmp_path / "output"
    home.mkdir()
    config.write_text(
        yaml.safe_dump(
            {
                "tracking": {"uri": address.replace("://", f"://planted-user:{IN_ADDRESS}@")},
                "cluster": {"address": "local"},
                "features": {"path": str(features), "text_mode": "none", "validation_share": 0.3, "test_share": 0.3},
                "model": {"hidden": 32},
                "train": {"epochs": 2, "batch_size": 32, "threads_per_worker": 1},
                "evaluate": {"resamples": 100},
            }
        )
    )
    command = [sys.executable, f"jobs/{job}.py", "--config", str(config), f"--{job}.output", str(output), *words]
    env = os.environ | IN_ENVIRONMENT | {"HOME": str(home), "RAY_TMPDIR": str(ray_folder)}
    printed, command_lines = watched(command, env)

    places = {"its output": printed.encode(), "command lines": command_lines.encode()}
    places |= found_in(output) | found_in(ray_folder) | found_in(server_folder) | found_in(home)
    for secret in (*IN_ENVIRONMENT.values(), IN_ADDRESS):
        assert [place for place, content in places.items() if secret.encode() in content] == [], secret

    # the search has looked where something is
    assert "planted-user:***@" in printed
    assert "raylet" in command_lines
    assert str(output).encode() in places[str(server_folder / "mlflow.db")]
    assert str(output / "config.yaml") in places
    assert any(place.endswith("/logs/runtime_env_agent.log") for place in places)
