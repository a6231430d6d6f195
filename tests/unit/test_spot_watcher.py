"""The watcher of EC2's notice: how it reads the metadata service, when it drains, what it says, and its systemd unit."""

import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _metadata_service import NOTICE, REBALANCE, MetadataService, metadata_service

sys.path.insert(0, str(Path(__file__).parents[2] / "cluster" / "spot_watcher"))

import spot_watcher
from instance_metadata import Metadata, MetadataError, read_notice
from ray_node import RayUnavailable

pytestmark = pytest.mark.timeout(60)

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def service() -> Iterator[MetadataService]:
    with metadata_service("10.0.0.7") as service:
        yield service


class Cluster:
    """In place of Ray: one node of this machine, which may not be up yet."""

    def __init__(self) -> None:
        self.up, self.requests = True, list[dict]()

    def drain(self, address: str, **request) -> frozenset[str]:
        if not self.up:
            raise RayUnavailable("Ray is not up: no cluster is named")
        new = frozenset({"node"}) - request["drained"]
        if new:
            self.requests.append({"address": address, **request})
        return new


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(spot_watcher, "drain", cluster.drain)
    return cluster


def test_a_token_is_asked_for_once_and_again_when_it_has_expired(service: MetadataService) -> None:
    metadata = Metadata(service.url)
    assert [read_notice(metadata) for _ in range(3)] == [None] * 3
    assert service.tokens == {"token-1": 21_600}
    service.tokens.clear()
    assert metadata.read("local-ipv4") == "10.0.0.7"
    assert list(service.tokens) == ["token-2"]


def test_a_notice_says_what_happens_and_when(service: MetadataService) -> None:
    service.texts[NOTICE] = '{"action": "stop", "time": "2026-11-26T08:22:00Z"}'
    notice = read_notice(Metadata(service.url))
    assert notice is not None
    assert (notice.action, notice.ends_at, notice.address) == ("stop", 1_795_681_320.0, "10.0.0.7")


@pytest.mark.parametrize("text", ["terminate", "[]", '{"action": "terminate"}', '{"action": "stop", "time": "soon"}'])
def test_a_notice_that_is_not_understood_is_one_of_two_minutes(service: MetadataService, text: str) -> None:
    service.texts[NOTICE] = text
    notice = read_notice(Metadata(service.url))
    assert notice is not None
    assert 110 < notice.ends_at - time.time() <= 120
    assert text in notice.action


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "gives no token: it answers 401"), (403, "gives no token: it answers 403"), (500, "gives no token: it answers 500")],
)
def test_a_service_that_refuses_is_named(service: MetadataService, status: int, said: str) -> None:
    service.status = status
    with pytest.raises(MetadataError, match=rf"^http://127.0.0.1:\d+ {said}$"):
        read_notice(Metadata(service.url))


def test_it_drains_when_ray_is_up_and_once(
    service: MetadataService, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watcher = spot_watcher.Watcher(Metadata(service.url))
    watcher.look()
    assert not cluster.requests
    cluster.up = False
    service.give_notice(120)
    watcher.look()
    watcher.look()
    cluster.up = True
    watcher.look()
    service.give_notice(60)  # as if it were another one
    watcher.look()
    (request,) = cluster.requests
    assert (request["address"], request["message"]) == ("10.0.0.7", "EC2 has given notice: terminate")
    assert 112 < request["deadline"] - time.time() <= 115  # 5 s before the end
    said = [record.getMessage() for record in caplog.records]
    assert [message.split(" in ")[0].split(",")[0] for message in said] == [
        "EC2 gives notice: terminate",
        "nothing is drained yet",
        "Ray node node is being drained",
    ]


def test_a_recommendation_is_logged_and_drains_nothing(
    service: MetadataService, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    service.texts[REBALANCE] = '{"noticeTime": "2026-11-26T08:22:00Z"}'
    watcher = spot_watcher.Watcher(Metadata(service.url))
    watcher.look()
    watcher.look()
    assert not cluster.requests
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["EC2 recommends to rebalance"]


def test_a_service_that_is_away_is_said_once_and_a_notice_afterwards_drains(
    service: MetadataService, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watcher = spot_watcher.Watcher(Metadata(service.url))
    service.status = 503
    service.give_notice(120)
    for _ in range(3):
        watcher.look()
    assert len(caplog.records) == 1
    assert "no notice can be read, asked again until there is an answer" in caplog.text
    service.status = 200
    watcher.look()
    assert len(cluster.requests) == 1
    assert "the metadata service answers again" in caplog.text
    service.status = 503  # a notice that has been read stands
    watcher.look()
    assert len(cluster.requests) == 1


def test_nothing_listens_where_there_is_no_service() -> None:
    with pytest.raises(MetadataError, match=r"^http://127.0.0.1:1 does not answer \(.*refused\)$"):
        Metadata("http://127.0.0.1:1").read("local-ipv4")


def test_the_unit_passes_systemds_own_check(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("this machine has no systemd-analyze")
    venv = Path(sys.executable).parents[1]
    words = ["bash", str(PROJECT / "cluster/spot_watcher/install.sh"), "--print", str(PROJECT), str(venv)]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "@" not in text.replace("two @", "")
    assert f"ExecStart={venv}/bin/python {PROJECT}/cluster/spot_watcher/spot_watcher.py\n" in text
    unit = tmp_path / "rdd-spot-watcher.service"
    unit.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
