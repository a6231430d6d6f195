"""Which Ray a job runs on, where there is none."""

import socket
import time

import pytest

from rdd.config import ClusterConfig
from rdd.on_ray import session
from rdd.on_ray.session import ray_session


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_dead_address_is_said_at_once(dead_port: int, scheme: str, monkeypatch) -> None:
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    address, started = f"{scheme}127.0.0.1:{dead_port}", time.monotonic()
    with (
        pytest.raises(RuntimeError, match=f"no Ray cluster answers at {address}; start it, or set cluster.address to local"),
        ray_session(ClusterConfig(address=address), [{"CPU": 1}], knobs="nothing"),
    ):
        pass
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(RuntimeError, match="no Ray cluster answers"),
        ray_session(ClusterConfig(), [{"CPU": 1}], knobs="nothing"),
    ):
        pass
    assert time.monotonic() - started < 15


def test_nodes_that_were_asked_for_are_given_back(monkeypatch) -> None:
    asked: list[list] = []
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session.ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(session, "_connect", lambda config: True)
    monkeypatch.setattr(session, "request_resources", lambda bundles: asked.append(bundles))
    config = ClusterConfig(address="somewhere:1", wait_s=0.1)
    with pytest.raises(ValueError, match="needs 2 CPUs"), ray_session(config, [{"CPU": 2, "GPU": 0}], knobs="nothing"):
        pass
    assert asked == [[{"CPU": 2}], []]
