"""A cluster on three hosts, from ``ray up`` to ``ray down``, as cluster/README.md says.

All tests share one cluster and are run in this order. What becomes of jobs when a part goes away: test_hosts_faults.py.
"""

import configparser
import json
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest
import requests
from _cluster import SECRET_KEY, WORKERS, Cluster, cluster, wait_until
from hosts import lacking

from rdd import storage

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "they can"),
]

SSH, CLIENT, DASHBOARD, MLFLOW = 22, 10001, 8265, 5000
ON_EVERY_NODE = {SSH, *range(6380, 6386), *range(10002, 11000)}
ON_THE_HEAD = ON_EVERY_NODE | {6379, CLIENT, 44217, 44227}
"""GCS, Ray's client, and metrics of the autoscaler and of the dashboard."""


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


def test_both_workers_join_and_the_head_takes_no_tasks(running: Cluster) -> None:
    assert "/4.0 CPU" in running.laptop.must(running.laptop.guide("status")).out
    assert len(running.alive()) == 1 + len(WORKERS)


def test_nothing_listens_where_it_should_not(running: Cluster) -> None:
    for host in running.hosts.all:
        lines = host.says("ss -ltnH").splitlines()
        places = [line.split()[3].rpartition(":") for line in lines]
        outside = {
            int(port) for address, _, port in places if not address.strip("[]").removeprefix("::ffff:").startswith("127.")
        }
        assert outside <= (ON_THE_HEAD if host is running.head else ON_EVERY_NODE), host.name
    for port in (DASHBOARD, MLFLOW):  # asked from another host
        assert running.hosts["worker-1"].run(f"timeout 5 bash -c '</dev/tcp/{running.head.address}/{port}'").returncode != 0


def test_who_has_not_the_token_is_refused(running: Cluster) -> None:
    """By the dashboard with its jobs API, by the GCS, and by Ray's client; with the token each line works."""
    lines = (
        "ray job submit --working-dir jobs -- true",
        f"ray status --address {running.head.address}:6379",
        f"python -c 'import ray; ray.init(\"ray://{running.head.address}:{CLIENT}\"); print(len(ray.nodes()))'",
    )
    wrong = "a-token-that-is-wrong-0123456789-0123456789"
    for held in ("RAY_AUTH_TOKEN_PATH=/dev/null", f"RAY_AUTH_TOKEN={wrong}"):
        for line in lines if wrong in held else lines[:2]:
            refused = running.laptop.run(f"{held} timeout 60 {line}")
            assert refused.code not in (0, 124), refused.text
            said = re.search("authenticat|token|unauthorized|client connection timeout", refused.text, re.IGNORECASE)
            assert said, refused.text[-2000:]
    for line in lines:
        running.laptop.must(line)
    for token in ("", wrong):
        answer = requests.get(
            f"http://127.0.0.1:{DASHBOARD}/api/jobs/", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
        assert answer.status_code in (401, 403)


def test_each_stage_runs_as_a_submitted_job(running: Cluster) -> None:
    said = {}
    for line in running.laptop.guide("sample").splitlines():
        answer = running.laptop.must(line, timeout=400)
        said[answer.summary["job"]] = answer.summary
        assert SECRET_KEY not in answer.text
    assert list(said) == ["sample", "embed", "train", "evaluate", "tune", "ablate"]
    assert (said["embed"]["records_written"], said["train"]["epochs"]) == (100, 10)
    for place in ("features/sample/manifest.json", "runs/sample/detector/detector.json", "runs/sample-sweep/best.yaml"):
        assert storage.exists(f"{running.s3.bucket}/{place}"), place


def test_their_runs_are_in_mlflow_behind_its_password(running: Cluster) -> None:
    login = configparser.ConfigParser()
    login.read(running.head.home / ".mlflow" / "credentials")
    user, password = (login["mlflow"][f"mlflow_tracking_{name}"] for name in ("username", "password"))
    with subprocess.Popen(["ssh", "-N", "-L", f"15000:127.0.0.1:{MLFLOW}", *running.head.way_in]) as tunnel:
        try:
            asked = "http://127.0.0.1:15000/api/2.0/mlflow/runs/search"
            wait_until(lambda: answers(15000), "ssh -L")
            experiments = "http://127.0.0.1:15000/api/2.0/mlflow/experiments/get-by-name?experiment_name=rdd"
            number = requests.get(experiments, auth=(user, password), timeout=30).json()["experiment"]["experiment_id"]
            wanted = {"experiment_ids": [number], "max_results": 100}
            runs = requests.post(asked, json=wanted, auth=(user, password), timeout=30).json()["runs"]
            for stranger in (("admin", "password1234"), (user, "wrong")):
                assert requests.post(asked, json=wanted, auth=stranger, timeout=30).status_code == 401
        finally:
            tunnel.terminate()
    stages = {tag["value"] for run in runs for tag in run["data"]["tags"] if tag["key"] == "rdd.job"}
    assert {"embed", "train", "evaluate", "tune", "ablate"} <= stages, stages
    assert password not in json.dumps(runs)
    assert SECRET_KEY not in json.dumps(runs)
    assert [path for path in storage.list_files(f"{running.s3.bucket}/mlflow") if path.path.endswith("detector.json")]


def test_down_leaves_nothing_running(running: Cluster) -> None:
    running.laptop.must("ray exec cluster/on_premises.yaml '~/venv/bin/python ~/rdd/cluster/mlflow/serve.py --stop'")
    running.laptop.must(running.laptop.guide("down"))
    for host in running.hosts.all:
        assert host.processes() == [], host.name


def answers(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
