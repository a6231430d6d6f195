"""A local Ray listens on the loopback interface alone, and answers those who have its token."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

TRAINING = """
import sys, time
from pathlib import Path

from rdd.config import ClusterConfig
from rdd.on_ray.process_group import torch_config
from rdd.on_ray.session import ray_session

folder = Path(sys.argv[1])

def on_worker():
    import torch
    import torch.distributed as dist

    total = torch.ones(1)
    dist.all_reduce(total)
    (folder / f"rank-{dist.get_rank()}").write_text(f"{total.item():g}")
    while not (folder / "end").exists():
        time.sleep(0.1)

with ray_session(ClusterConfig(address="local", num_cpus=2), [{"CPU": 1}] * 2, knobs="nothing"):
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    (folder / "address").write_text(ray.get_runtime_context().gcs_address)
    scaling, run = ScalingConfig(num_workers=2), RunConfig(storage_path=str(folder / "ray"))
    TorchTrainer(on_worker, torch_config=torch_config("gloo", timeout_s=120), scaling_config=scaling, run_config=run).fit()
"""

CLIENT = """
import sys

from rdd.config import ClusterConfig
from rdd.on_ray.session import ray_session, resources_held

with ray_session(ClusterConfig(address=sys.argv[1]), [], knobs="nothing"):
    print("attached:", resources_held())
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "GLOO_"))}
    return own | {"HOME": str(home)}


@pytest.fixture(scope="module")
def training(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[psutil.Process, str]]:
    """A process whose two workers have summed over both and wait, and the address of its Ray."""
    folder = tmp_path_factory.mktemp("training")
    with open(folder / "log", "w") as log:
        words = [sys.executable, "-c", TRAINING, str(folder)]
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2])
        try:
            deadline = time.monotonic() + 120
            while not all((folder / f"rank-{rank}").exists() for rank in (0, 1)):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.2)
            assert (folder / "rank-0").read_text() == "2"
            yield psutil.Process(process.pid), (folder / "address").read_text()
            (folder / "end").touch()
            assert process.wait(60) == 0, (folder / "log").read_text()
        finally:
            process.kill()


def test_nothing_listens_beyond_loopback(training: tuple[psutil.Process, str]) -> None:
    listeners = [
        (process.name(), connection.laddr.ip, connection.laddr.port)
        for process in [training[0], *training[0].children(recursive=True)]
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN or (connection.type == socket.SOCK_DGRAM and not connection.raddr)
    ]
    assert len(listeners) > 5
    assert [listener for listener in listeners if listener[1] not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")] == []


def attach(address: str, environment: dict[str, str]) -> subprocess.CompletedProcess:
    assert address.startswith("127.0.0.1:")
    words = [sys.executable, "-c", CLIENT, address]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=100)


def test_the_token_is_its_users_alone_and_opens(training: tuple[psutil.Process, str], environment, home: Path) -> None:
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    done = attach(training[1], environment | {"RAY_AUTH_MODE": "token"})
    assert "attached: CPU 2 of 2" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, id="wrong"),
        pytest.param({}, id="none", marks=pytest.mark.long),
    ],
)
@pytest.mark.slow
def test_a_client_without_the_token_is_refused(training: tuple[psutil.Process, str], environment, shown: dict) -> None:
    done = attach(training[1], environment | shown)
    assert done.returncode != 0
    assert "attached" not in done.stdout
    assert "InvalidAuthToken" in done.stderr or "AuthenticationError" in done.stderr
