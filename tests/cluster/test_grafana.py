"""The dashboard of Grafana: its form, and that Ray's own metrics answer each of its queries while an embedding runs."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from _embed_job import settings, words
from _metrics import DASHBOARD, Labels, Prometheus, named_in, panels, queries, scrape
from _started_node import Node, free_port, head

pytestmark = pytest.mark.timeout(60)

SILENT = {  # no GPU here, and nothing goes wrong
    "ray_node_gpus_utilization",
    "ray_node_gram_used",
    "ray_node_gram_available",
    "ray_node_manager_unexpected_worker_failure_total",
    "ray_memory_manager_worker_eviction_total",
    "autoscaler_recently_failed_nodes",
}
NOTHING_FAILED = re.compile(r'State="FAILED"|IsRetry!="0"')


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids) > 15
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_each_panel_asks_the_chosen_prometheus_and_only_for_the_chosen_session() -> None:
    board = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    assert variables["SessionName"]["definition"] == variables["SessionName"]["query"]["query"]
    assert board["uid"]
    for panel in panels():
        assert panel["type"] in ("row", "timeseries")
        targets = panel.get("targets", [])
        assert bool(targets) == (panel["type"] == "timeseries")
        assert len({target["refId"] for target in targets}) == len(targets)
        for asked in [panel, *targets] if targets else []:
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for query in queries():
        assert query.count('SessionName=~"$SessionName"') == len(re.findall(r"\{", query)) > 0
        assert set(re.findall(r"\$(\w+)", query)) <= {"SessionName", "__rate_interval"}


def test_legends_name_labels_that_their_query_groups_by() -> None:
    for panel in panels():
        for target in panel.get("targets", []):
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert labels <= set().union(*named_in(target["expr"]).values()), target["expr"]


def test_each_metric_is_one_that_the_installed_ray_has() -> None:
    known = names_of_ray()
    raylet = (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
    for query in [*queries(), "ray_no_such_metric{}"]:
        for name in named_in(query):
            found = name in known or name.removeprefix("ray_").encode() in raylet
            assert found == (name != "ray_no_such_metric"), name


def names_of_ray() -> set[str]:
    """Names in Ray's own dashboards, of the gauges of its nodes, and of the operators of Ray Data."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
    from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics

    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    own = {name for file in folder.glob("*.py") for name in re.findall(r"\b(?:ray|autoscaler)_\w+(?=\{)", file.read_text())}
    return own | {f"ray_{name}" for name in METRICS_GAUGES} | {f"ray_data_{m.name}" for m in OpRuntimeMetrics.get_metrics()}


def test_labels_of_gpus_are_those_of_ray() -> None:
    from ray.dashboard.consts import GPU_TAG_KEYS

    asked = [labels for query in queries() for name, labels in named_in(query).items() if "_gpus_" in name or "_gram_" in name]
    assert len(asked) >= 3
    assert all(labels <= set(GPU_TAG_KEYS) for labels in asked)


@dataclass(frozen=True)
class Sight:
    """What was seen of an embedding on a head."""

    labels: Labels
    """In all that its processes served."""
    prometheus: Prometheus | None
    """That of the script of the head, where it is installed."""
    grafana: list[str]
    """How the script called Grafana."""


_FAST = {"RAY_metrics_report_interval_ms": "5000"}
"""Half of the default. Ray forgets a gauge that it has not measured for twice that time, and measures nodes every 5 s."""
_GRAFANA = """#!/bin/bash
printf '%s\\n' "$GF_SERVER_HTTP_ADDR" "$@" > "$(dirname "$0")/called"
exec sleep 600
"""
"""Stands in for Grafana, which no package index here has: it notes how it is called."""

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus")


@pytest.fixture(scope="module")
def sight(tmp_path_factory: pytest.TempPathFactory, sample_set: Path, tiny_model: str) -> Iterator[Sight]:
    folder = tmp_path_factory.mktemp("sight")
    values = settings(str(sample_set), str(folder / "features"), tiny_model)
    with head(folder, {**_FAST, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}, num_cpus="2") as node:
        if shutil.which("prometheus") is None:
            yield Sight(embed(node, values), None, [])
            return
        with started_prometheus(node, folder) as prometheus:
            embed(node, values)
            time.sleep(15)  # it looks every 10 s, and a rate takes two looks
            yield Sight(prometheus.labels(), prometheus, (folder / "called").read_text().splitlines())


@contextlib.contextmanager
def started_prometheus(node: Node, folder: Path) -> Iterator[Prometheus]:
    """The script of the head, which starts Prometheus and what stands in for Grafana."""
    grafana, port = folder / "grafana", free_port()
    grafana.write_text(_GRAFANA)
    grafana.chmod(0o755)
    environment = node.environment | {"PATH": f"{folder}:{node.environment['PATH']}", "PROMETHEUS_PORT": str(port)}
    environment |= {"PROMETHEUS_DATA": str(folder / "prometheus")}
    command = ["bash", "cluster/grafana/start.sh", str(node.folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
    try:
        yield Prometheus(f"127.0.0.1:{port}", time.time())
    finally:
        process.terminate()  # which must end the other two
        process.wait(30)
        deadline = time.monotonic() + 20
        while left := alive_in_group(process.pid):
            assert time.monotonic() < deadline, left
            time.sleep(0.2)


def alive_in_group(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def embed(node: Node, values: dict[str, object]) -> Labels:
    """Run an embedding on the head, and look at all that is served meanwhile and a little longer."""
    labels: Labels = {}
    discovery = node.folder / "prom_metrics_service_discovery.json"
    values = {**values, "cluster.address": node.address, "cluster.num_cpus": 0}
    with subprocess.Popen(words(values), env=node.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as job:
        end = None
        while end is None or time.monotonic() < end:
            time.sleep(1)
            if end is None and job.poll() is not None:
                end = time.monotonic() + 10
            if discovery.exists():
                scrape((address for entry in json.loads(discovery.read_text()) for address in entry["targets"]), labels)
        assert job.returncode == 0, job.communicate()[1].decode()
    return labels


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_embedding_serves_each_metric_with_its_labels(sight: Sight) -> None:
    for query in queries():
        for name, labels in named_in(query).items():
            if name not in SILENT:
                assert labels <= sight.labels.get(name, set()), name


@needs_prometheus
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_prometheus_takes_each_query_and_listens_on_the_loopback_interface_alone(sight: Sight) -> None:
    assert sight.prometheus is not None
    without = {query for query in queries() if not sight.prometheus.answers(query)}
    assert {query for query in without if not SILENT & set(named_in(query)) and not NOTHING_FAILED.search(query)} == set()
    port = int(sight.prometheus.address.split(":")[1])
    listeners = [connection.laddr for connection in psutil.net_connections("tcp") if connection.status == "LISTEN"]
    assert {address.ip for address in listeners if address.port == port} == {"127.0.0.1"}


@needs_prometheus
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_grafana_is_told_where_the_dashboard_lies(sight: Sight) -> None:
    assert sight.grafana[0] == "127.0.0.1"
    config = Path(sight.grafana[sight.grafana.index("--config") + 1])
    (provisioning,) = re.findall(r"provisioning = (.*)", config.read_text())
    (provider,) = yaml.safe_load((Path(provisioning) / "dashboards" / "default.yml").read_text())["providers"]
    assert (Path(provider["options"]["path"]) / "rdd.json").read_bytes() == DASHBOARD.read_bytes()
