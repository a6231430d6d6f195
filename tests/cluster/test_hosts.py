"""A cluster on three hosts, from ``ray up`` to ``ray down``, as cluster/README.md says.

All tests share one cluster and are run in this order. What becomes of jobs when a part goes away: test_hosts_faults.py.
"""

import configparser
import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from _cluster import SECRET_KEY, WORKERS, Answer, Cluster, cluster, wait_until
from _rehearsal_checks import check_fetched
from _rehearsal_set import RehearsalSet
from hosts import lacking

from rdd import storage

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "they can"),
]

CHROMIUM = "/usr/bin/chromium"
WEB_SERVER = Path("tests/integration/_web_server.py").absolute()
SSH, CLIENT, DASHBOARD, MLFLOW = 22, 10001, 8265, 5000
ON_EVERY_NODE = {SSH, *range(6380, 6386), *range(10002, 11000)}
ON_THE_HEAD = ON_EVERY_NODE | {6379, CLIENT, 44217, 44227}
"""GCS, Ray's client, and metrics of the autoscaler and of the dashboard."""


@pytest.fixture(scope="module")
def running() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture(scope="module")
def said() -> dict[str, Answer]:
    """What each stage has printed, by its name."""
    return {}


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


def test_each_stage_runs_as_a_submitted_job(running: Cluster, said: dict[str, Answer]) -> None:
    for line in running.laptop.guide("sample").splitlines():
        answer = running.laptop.must(line, timeout=400)
        said[answer.summary["job"]] = answer
    assert list(said) == ["sample", "embed", "train", "evaluate", "tune", "ablate"]
    assert (said["embed"].summary["records_written"], said["train"].summary["epochs"]) == (100, 10)
    for place in ("features/sample/manifest.json", "runs/sample/detector/detector.json", "runs/sample-sweep/best.yaml"):
        assert storage.exists(f"{running.s3.bucket}/{place}"), place
    commit = running.laptop.must("git rev-parse HEAD").out.strip()  # what travels has no .git
    for run in ("sample", "sample-ablation/runs/ours/seed-0"):
        detector = json.loads(storage.read_bytes(f"{running.s3.bucket}/runs/{run}/detector/detector.json"))
        assert detector["provenance"]["git_commit"] == commit, run


def test_real_images_are_fetched_by_workers_on_both_hosts(running: Cluster, said: dict[str, Answer]) -> None:
    port, place = 18080, f"{running.s3.bucket}/d3"
    rehearsal = RehearsalSet(60, port, seed=10)
    rehearsal.write(f"{place}/records")
    settings = {"records.path": f"{place}/records", "records.real_images": f"{place}/real", "fetch.output": f"{place}/real"}
    settings |= {"fetch.contact": "rehearsal@example.org", "fetch.allow_loopback": True, "fetch.num_workers": 2}
    settings |= {"fetch.records_per_file": 10, "fetch.files_per_worker": 1, "fetch.read_timeout_s": 2.0, "fetch.backoff_s": 0.1}
    settings |= {"fetch.placeholder_urls": 1}  # of 60 addresses four serve the same bytes
    with websites(running, port):
        said["fetch"] = running.laptop.must(running.submit("fetch", settings))
        ask = f"curl -s http://127.0.0.1:{port}/stats"
        asked = [json.loads(running.hosts[name].says(ask))["requests"] for name in WORKERS]
    fetched = check_fetched(rehearsal, f"{place}/real")
    assert len(fetched["ok"]) == said["fetch"].summary["ok"] > 20
    assert all(asked), "one worker fetched all"


def test_their_runs_are_in_mlflow_behind_its_password(running: Cluster) -> None:
    with mlflow_in_reach(running) as (address, login):
        found = requests.get(f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=rdd", auth=login, timeout=30)
        wanted = {"experiment_ids": [found.json()["experiment"]["experiment_id"]], "max_results": 100}
        search = f"{address}/api/2.0/mlflow/runs/search"
        runs = requests.post(search, json=wanted, auth=login, timeout=30).json()["runs"]
        for stranger in (("admin", "password1234"), (login[0], "wrong")):
            assert requests.post(search, json=wanted, auth=stranger, timeout=30).status_code == 401
    stages = {tag["value"] for run in runs for tag in run["data"]["tags"] if tag["key"] == "rdd.job"}
    assert {"fetch", "embed", "train", "evaluate", "tune", "ablate"} <= stages, stages
    assert not any(secret in json.dumps(runs) for secret in (login[1], SECRET_KEY, token_of(running)))
    assert [path for path in storage.list_files(f"{running.s3.bucket}/mlflow") if path.path.endswith("detector.json")]


@pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here: apt-get install chromium")
def test_the_compare_page_is_read_in_a_browser(running: Cluster, said: dict[str, Answer]) -> None:
    """By the link that the ablation has printed, through a tunnel."""
    from playwright.sync_api import sync_playwright

    with mlflow_in_reach(running) as (address, (user, password)), sync_playwright() as playwright:
        link = re.search(r"compare the rows of ablations in MLflow: (\S+)", said["ablate"].text)
        assert link, said["ablate"].text
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        login = {"username": user, "password": password}
        page = browser.new_context(viewport={"width": 1440, "height": 900}, http_credentials=login).new_page()
        page.goto(link[1].replace(f"http://127.0.0.1:{MLFLOW}", address))
        auc = said["ablate"].summary["auroc"]  # of both rows and of the two probes below them
        page.get_by_text(f"{len(auc)} matching runs").wait_for(timeout=60_000)
        shown = page.locator(".ag-cell[col-id='tags.`AUC 95 CI`']").all_inner_texts()
        browser.close()
    assert list(auc) == ["without_sam", "ours", "logistic_regression", "nearest_neighbours"]
    assert [text.split()[0] for text in shown] == [f"{value:.3f}" for value in auc.values()]


def test_no_secret_is_written_anywhere(running: Cluster, said: dict[str, Answer]) -> None:
    """Keys of the bucket, Ray's token and MLflow's password: not in what jobs print, in logs, in results, on command lines."""
    secrets = [SECRET_KEY, token_of(running), login_of(running)[1]]
    for stage, answer in said.items():
        assert not any(secret in answer.text for secret in secrets), stage
    for file in storage.list_files(running.s3.bucket):
        content = storage.read_bytes(file.path)
        assert not any(secret.encode() in content for secret in secrets), file.path
    for host in running.hosts.all:
        (host.home / "secrets").write_text("\n".join(secrets))  # on the search's own command line they would be found
        found = host.run("grep -rlFf ~/secrets /tmp/ray /proc/[0-9]*/cmdline 2> /dev/null")
        assert (found.returncode, found.stdout) == (1, ""), host.name


def test_down_leaves_nothing_running(running: Cluster) -> None:
    running.laptop.must(running.laptop.guide("down"))
    ends_of_the_tunnel = ("bash -c while true", "sleep 86400")  # which ends with `ray dashboard`
    for host in running.hosts.all:
        assert [line for line in host.processes() if not line.startswith(ends_of_the_tunnel)] == [], host.name


def token_of(running: Cluster) -> str:
    """Ray's token, which lies in the laptop's home."""
    return (running.laptop.project.parent / ".ray" / "auth_token").read_text().strip()


def login_of(running: Cluster) -> tuple[str, str]:
    """User and password of MLflow, as the head keeps them."""
    login = configparser.ConfigParser()
    login.read(running.head.home / ".mlflow" / "credentials")
    return login["mlflow"]["mlflow_tracking_username"], login["mlflow"]["mlflow_tracking_password"]


@contextlib.contextmanager
def websites(running: Cluster, port: int) -> Iterator[None]:
    """The web server of the tests on the loopback of each worker."""
    for name in WORKERS:
        serve = f"~/venv/bin/python {WEB_SERVER} ~/port {port} > ~/web.log 2>&1 < /dev/null"
        running.hosts[name].says(f"nohup {serve} & echo $! > ~/web.pid; until [ -s ~/port ]; do sleep 0.1; done")
    try:
        yield
    finally:
        for name in WORKERS:
            running.hosts[name].says("kill $(cat ~/web.pid)")


@contextlib.contextmanager
def mlflow_in_reach(running: Cluster) -> Iterator[tuple[str, tuple[str, str]]]:
    """A tunnel to the head's MLflow: its address on this machine, and its user and password."""
    with subprocess.Popen(["ssh", "-N", "-L", f"15000:127.0.0.1:{MLFLOW}", *running.head.way_in]) as tunnel:
        try:
            wait_until(lambda: answers(15000), "ssh -L")
            yield "http://127.0.0.1:15000", login_of(running)
        finally:
            tunnel.terminate()


def answers(port: int) -> bool:
    """Whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
