"""The manifests of Kubernetes: fields and rules of KubeRay 1.7, sizes that fit the jobs, entrypoints that the jobs take.

No Kubernetes runs here: what is shown is that KubeRay, Ray's autoscaler and the jobs read in them what they should say.
"""

import copy
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from _kuberay_rules import broken_rules, groups_of
from _kuberay_schema import MANIFESTS, complaints, manifests
from _started_node import head, worker

from rdd.config import Config
from rdd.config.parse import parse_config
from rdd.config.stages import ABLATE, EMBED, EVALUATE, FETCH, TRAIN, TUNE, Stage, require

pytestmark = pytest.mark.timeout(60)

STAGES = {stage.name: stage for stage in (FETCH, EMBED, TRAIN, TUNE, ABLATE, EVALUATE)}
GONE = object()


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((MANIFESTS / name).read_text())


CLUSTER = read("ray_cluster.yaml")
SPEC = CLUSTER["spec"]


@pytest.mark.parametrize(("path", "manifest"), manifests(), ids=lambda value: value.name if isinstance(value, Path) else "")
def test_a_manifest_has_fields_that_kuberay_knows_and_breaks_no_rule(path: Path, manifest: dict[str, Any]) -> None:
    if manifest["kind"] == "Secret":
        manifest = filled(manifest)
    assert complaints(manifest) == []
    assert broken_rules(manifest) == []


def filled(secret: dict[str, Any]) -> dict[str, Any]:
    return secret | {"stringData": dict.fromkeys(secret["stringData"], "text")}


@pytest.mark.parametrize("name_of_file", ["settings.yaml", "serve_token.yaml"])
def test_a_secret_is_refused_while_a_value_is_not_filled_in(name_of_file: str) -> None:
    secret = read(name_of_file)
    for name in secret["stringData"]:
        value = filled(secret)
        value["stringData"][name] = secret["stringData"][name]
        assert len(complaints(value)) == 1, name


HEAD = "spec.headGroupSpec"
POD = f"{HEAD}.template.spec"
NODES = f"{POD}.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution"
GPU = "spec.workerGroupSpecs.1"

SERVING = "spec.rayClusterConfig.workerGroupSpecs.0.template.spec.containers.0"

MISSPELT = [
    ("ray_cluster.yaml", "spec.rayversion", "2.60.0"),
    ("ray_cluster.yaml", "spec.authOptions.secret", "rdd"),
    ("ray_cluster.yaml", "spec.authOptions.mode", "tokens"),
    ("ray_cluster.yaml", "spec.autoscalerOptions.idleTimeoutMinutes", 10),
    ("ray_cluster.yaml", f"{HEAD}.rayStartParams.num-cpus", 0),
    ("ray_cluster.yaml", f"{POD}.terminationGracePeriod", 120),
    ("ray_cluster.yaml", f"{POD}.containers.0.envfrom", []),
    ("ray_cluster.yaml", f"{POD}.containers.0.env.0.val", "90"),
    ("ray_cluster.yaml", f"{POD}.containers.0.env.0.value", 90),
    ("ray_cluster.yaml", f"{POD}.containers.0.envFrom.0.secretRef.key", "rdd"),
    ("ray_cluster.yaml", f"{POD}.containers.0.ports.0.port", 6379),
    ("ray_cluster.yaml", f"{POD}.containers.0.securityContext.capabilities.dropped", ["ALL"]),
    ("ray_cluster.yaml", f"{GPU}.maxReplica", 8),
    ("ray_cluster.yaml", f"{GPU}.maxReplicas", GONE),
    ("ray_cluster.yaml", f"{GPU}.template.spec.containers.0.resources.limits.memory", "28 GB"),
    ("ray_cluster.yaml", f"{GPU}.template.spec.tolerations.2.efect", "NoSchedule"),
    ("ray_cluster.yaml", f"{GPU}.template.spec.affinity.nodeAffinity.preferred", []),
    ("jobs/train.yaml", "spec.entryPoint", "python"),
    ("jobs/train.yaml", "spec.backofflimit", 1),
    ("jobs/evaluate.yaml", "spec.entrypointNumCpus", "one"),
    ("disruption_budget.yaml", "spec.minimumAvailable", 1),
    ("disruption_budget.yaml", "spec.selector.matchLabel", {}),
    ("pod_monitor.yaml", "spec.podMetricsEndpoints.0.relabelling", []),
    ("settings.yaml", "stringdata", {}),
    ("jobs/train.yaml", "apiVersion", "ray.io/v1alpha1"),
    ("ray_service.yaml", "spec.serveConfigV1", ""),
    ("ray_service.yaml", "spec.excludeHeadPodFromServeSvc", "yes"),
    ("ray_service.yaml", "spec.rayClusterConfig.rayversion", "2.60.0"),
    ("ray_service.yaml", f"{SERVING}.readinessProbe.httpGet.url", "/readyz"),
    ("ray_service.yaml", f"{SERVING}.readinessProbe.period", 5),
]


@pytest.mark.parametrize(("name", "place", "value"), MISSPELT, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_misspelt_is_refused_at_any_depth(name: str, place: str, value: object) -> None:
    good = read(name) if name != "settings.yaml" else filled(read(name))
    assert complaints(good) == []
    assert complaints(changed(good, {place: value}))


def changed(manifest: dict[str, Any], values: dict[str, object]) -> dict[str, Any]:
    """A copy with what is at each place replaced, or taken away."""
    manifest = copy.deepcopy(manifest)
    for place, value in values.items():
        *way, last = [int(step) if step.isdigit() else step for step in re.split(r"(?<!ray)\.(?!io/)", place)]
        node: Any = manifest
        for step in way:
            node = node[step]
        if value is GONE:
            del node[last]
        else:
            node[last] = copy.deepcopy(value)
    return manifest


RULES = [
    ("ray_cluster.yaml", {"metadata.name": "r" * 54}, "at most 53 characters"),
    ("ray_cluster.yaml", {"metadata.name": "1rdd"}, "DNS-1035"),
    ("ray_cluster.yaml", {"spec.rayVersion": GONE}, "rayVersion must be a version"),
    ("ray_cluster.yaml", {"spec.rayVersion": "2.51.1"}, "2.52.0 at least"),
    ("ray_cluster.yaml", {"spec.authOptions.enableK8sTokenAuth": True, "spec.rayVersion": "2.54.0"}, "2.55.0"),
    ("ray_cluster.yaml", {"spec.authOptions.enableK8sTokenAuth": True, "spec.authOptions.secretName": "a"}, "secretName"),
    ("ray_cluster.yaml", {"spec.authOptions.mode": "disabled"}, "must be token"),
    ("ray_cluster.yaml", {"spec.autoscalerOptions.idleTimeoutSeconds": -1}, "idleTimeoutSeconds must be at least 0"),
    ("ray_cluster.yaml", {f"{POD}.restartPolicy": "Always"}, "restartPolicy must be Never"),
    ("ray_cluster.yaml", {f"{GPU}.template.spec.restartPolicy": "OnFailure"}, "restartPolicy must be Never"),
    ("ray_cluster.yaml", {f"{POD}.containers.0.env.0.name": "RAY_enable_autoscaler_v2"}, "beside autoscalerOptions.version"),
    (
        "ray_cluster.yaml",
        {
            f"{POD}.containers.0.env.0": {"name": "RAY_enable_autoscaler_v2", "value": "1"},
            "spec.enableInTreeAutoscaling": False,
        },
        "must not be on",
    ),
    ("ray_cluster.yaml", {f"{POD}.containers": []}, "must have a container"),
    ("ray_cluster.yaml", {f"{HEAD}.resources": {"CPU": "0"}}, "not in both"),
    ("ray_cluster.yaml", {f"{GPU}.rayStartParams.labels": "a=b"}, "not in rayStartParams"),
    ("ray_cluster.yaml", {f"{GPU}.minReplicas": 9}, "minReplicas <= maxReplicas"),
    ("ray_cluster.yaml", {f"{GPU}.suspend": True}, "must not be suspended"),
    ("ray_cluster.yaml", {f"{GPU}.idleTimeoutSeconds": -5}, "of a group must be at least 0"),
    ("ray_cluster.yaml", {f"{GPU}.priority": 1, "spec.autoscalerOptions.version": "v1"}, "must go with autoscaler v2"),
    ("ray_cluster.yaml", {f"{GPU}.template.spec.containers.0.resources.requests": GONE}, "requests must be the limits"),
    ("ray_cluster.yaml", {f"{POD}.containers.0.ports.1.name": "gcs-server"}, "names of their own"),
    ("ray_cluster.yaml", {f"{GPU}.template.spec.tolerations.2.operator": "Exist"}, "a toleration must"),
    (
        "ray_cluster.yaml",
        {f"{GPU}.template.spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution.0.weight": 0},
        "weight",
    ),
    (
        "ray_cluster.yaml",
        {f"{NODES}.nodeSelectorTerms.0.matchExpressions.0.operator": "Notin"},
        "In or NotIn some values",
    ),
    ("jobs/train.yaml", {"metadata.name": "t" * 48}, "at most 47 characters"),
    ("jobs/train.yaml", {"spec.submissionMode": "HttpMode"}, "submissionMode must be one of"),
    ("jobs/train.yaml", {"spec.submissionMode": "SidecarMode"}, "must not be SidecarMode"),
    ("jobs/train.yaml", {"spec.clusterSelector": GONE}, "clusterSelector or rayClusterSpec"),
    ("jobs/train.yaml", {"spec.clusterSelector": {"ray.io/name": "rdd"}}, "must name a cluster"),
    (
        "jobs/train.yaml",
        {"spec.clusterSelector": GONE, "spec.rayClusterSpec": SPEC, "spec.rayClusterSpec.rayVersion": "2.0.0"},
        "2.52.0 at least",
    ),
    ("jobs/train.yaml", {"spec.submissionMode": "SidecarMode", "spec.submitterConfig": {}}, "without submitterPodTemplate"),
    ("jobs/train.yaml", {"spec.backoffLimit": 2}, "backoffLimit must be 0"),
    ("jobs/train.yaml", {"spec.backoffLimit": -1}, "backoffLimit must be at least 0"),
    ("jobs/train.yaml", {"spec.activeDeadlineSeconds": 0}, "activeDeadlineSeconds"),
    ("jobs/train.yaml", {"spec.suspend": True}, "suspend must go with"),
    ("jobs/train.yaml", {"spec.ttlSecondsAfterFinished": 60}, "must go with shutdownAfterJobFinishes"),
    (
        "jobs/train.yaml",
        {"spec.shutdownAfterJobFinishes": True, "spec.deletionStrategy": {"deletionRules": [{"policy": "DeleteSelf"}]}},
        "deletionRules must not go with",
    ),
    ("jobs/train.yaml", {"spec.deletionStrategy": {"deletionRules": [{"policy": "DeleteCluster"}]}}, "of a clusterSelector"),
    ("jobs/train.yaml", {"spec.runtimeEnvYAML": "just words"}, "runtimeEnvYAML"),
    ("ray_service.yaml", {"metadata.name": "s" * 48}, "at most 47 characters"),
    ("ray_service.yaml", {"spec.rayClusterConfig.rayVersion": "2.51.1"}, "2.52.0 at least"),
    ("ray_service.yaml", {"spec.rayClusterConfig.authOptions.enableK8sTokenAuth": True}, "must not have enableK8sTokenAuth"),
    (
        "ray_service.yaml",
        {"spec.rayClusterConfig.headGroupSpec.headService": {"metadata": {"name": "a"}}},
        "no name of its own",
    ),
    ("ray_service.yaml", {"spec.upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}}, "upgradeStrategy.type"),
    ("ray_service.yaml", {"spec.rayClusterDeletionDelaySeconds": -1}, "rayClusterDeletionDelaySeconds"),
    ("ray_service.yaml", {"spec.serveConfigV2": "just words"}, "serveConfigV2"),
    ("disruption_budget.yaml", {"spec.minAvailable": "50%"}, "whole minAvailable"),
    ("disruption_budget.yaml", {"spec.minAvailable": GONE, "spec.maxUnavailable": 0}, "whole minAvailable"),
]


@pytest.mark.parametrize(("name", "values", "rule"), RULES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_broken_rule_is_named(name: str, values: dict[str, object], rule: str) -> None:
    assert any(rule in sentence for sentence in broken_rules(changed(read(name), values)))


def test_manifests_name_each_other_and_the_versions_of_the_project() -> None:
    kinds = {manifest["kind"]: manifest for _, manifest in manifests()}
    secret, budget = kinds["Secret"]["metadata"]["name"], kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    pins = Path("constraints.txt").read_text().splitlines()
    assert f"ray=={SPEC['rayVersion']}" in pins
    assert budget == {"ray.io/cluster": CLUSTER["metadata"]["name"], "ray.io/node-type": "head"}  # as KubeRay labels pods
    assert secret != CLUSTER["metadata"]["name"]  # the Secret of that name holds the token that KubeRay makes
    for group in groups_of(SPEC):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == "your-registry/rdd:your-tag"
        assert container["envFrom"] == [{"secretRef": {"name": secret}}]
    monitor = kinds["PodMonitor"]["spec"]
    ports = {port["name"] for port in SPEC["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]}
    assert monitor["selector"]["matchLabels"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports
    for path, manifest in manifests():
        if manifest["kind"] == "RayJob":
            assert manifest["spec"]["clusterSelector"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
            assert manifest["metadata"]["name"] == f"rdd-{path.stem}"
            assert path.stem in STAGES
    assert Counter(manifest["kind"] for _, manifest in manifests())["RayJob"] == len(STAGES)


def test_ray_itself_reads_the_variable_that_drains_a_node_and_the_pod_outlives_the_drain() -> None:
    from ray._private import ray_constants

    name = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    assert hasattr(ray_constants, name)
    for group in SPEC["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert 60 <= float(environment_of(group)[name]) <= pod["terminationGracePeriodSeconds"] - 30
        assert pod["terminationGracePeriodSeconds"] >= 120


def environment_of(group: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in group["template"]["spec"]["containers"][0]["env"]}


def as_the_autoscaler_reads_it() -> dict[str, Any]:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    manifest = copy.deepcopy(CLUSTER)
    manifest["metadata"]["namespace"] = "default"
    return _derive_autoscaling_config_from_ray_cr(manifest)


def config_of(stage: Stage) -> Config:
    """The config of a RayJob's entrypoint, parsed as its job does; the job is there."""
    python, script, *words = shlex.split(read(f"jobs/{stage.name}.yaml")["spec"]["entrypoint"])
    assert (python, script) == ("python", f"jobs/{stage.name}.py")
    assert Path(script).exists()
    config = parse_config(words, sections=stage.reads)
    require(stage, config)
    return config


@pytest.mark.parametrize("name", STAGES)
def test_an_entrypoint_is_what_its_job_takes_and_fits_in_the_largest_cluster(name: str) -> None:
    config = config_of(STAGES[name])
    types = as_the_autoscaler_reads_it()["available_node_types"]
    most = {unit: sum(t["max_workers"] * t["resources"].get(unit, 0) for t in types.values()) for unit in ("CPU", "GPU")}
    fetch, embed, scaling = config.fetch, config.embed, config.scaling
    decoding = 112  # CPUs beside the encoders, by the README's table for eight A100
    needed = {
        "fetch": (fetch.num_workers * fetch.cpus_per_worker, 0),
        "embed": (embed.num_workers * embed.cpus_per_worker + decoding, embed.num_workers * embed.gpus_per_worker),
        "train": (scaling.num_workers * scaling.cpus_per_worker, scaling.num_workers * scaling.gpus_per_worker),
        "tune": (config.tune.cpus_per_trial, config.tune.gpus_per_trial),
        "ablate": (config.ablate.cpus_per_run, config.ablate.gpus_per_run),
        "evaluate": (read("jobs/evaluate.yaml")["spec"].get("entrypointNumCpus", 0), 0),
    }
    cpus, gpus = needed[name]
    assert cpus <= most["CPU"]
    assert gpus <= most["GPU"]
    assert (gpus > 0) == (name in ("embed", "train", "tune", "ablate"))
    assert cpus > 0
    assert config.cluster.address == "auto"


def test_ray_reads_the_sizes_of_the_groups_from_zero_to_their_maximum() -> None:
    read_by_ray = as_the_autoscaler_reads_it()
    types = read_by_ray["available_node_types"]
    assert {name: (t["min_workers"], t["max_workers"]) for name, t in types.items()} == {
        "headgroup": (0, 0),
        "cpu": (0, 8),
        "gpu": (0, 8),
    }
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert types["cpu"]["resources"] == {"CPU": 15, "memory": 28 * 2**30}
    assert types["gpu"]["resources"] == {"CPU": 7, "GPU": 1, "memory": 28 * 2**30}
    assert read_by_ray["idle_timeout_minutes"] == 10


def test_the_image_is_built_from_what_there_is_with_the_pinned_versions() -> None:
    text = (MANIFESTS / "Dockerfile").read_text()
    words = [line.split() for line in text.splitlines() if line]
    (base,) = [line[1] for line in words if line[0] == "FROM"]
    assert re.fullmatch(r"python:3\.11-slim-\w+", base)
    copied = [source for line in words if line[0] == "COPY" for source in line[1:-1]]
    assert {"constraints.txt", "pyproject.toml", "rdd", "jobs"} <= set(copied)
    assert all(Path(source).exists() for source in copied)
    assert "--constraint constraints.txt" in text
    users = [line[1] for line in words if line[0] == "USER"]
    assert users[-1].isdigit()  # runAsNonRoot can not judge a name


_WORK = """
import os, time
import ray
ray.init(address=os.environ["CLUSTER"], log_to_driver=False)

@ray.remote(num_cpus=1, max_retries=0)
def work():
    time.sleep(15)
    return "finished"

running = work.remote()
print("submitted", flush=True)
print(ray.get(running), flush=True)
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_pods_sigterm_drains_its_node_and_what_runs_there_finishes(tmp_path: Path) -> None:
    environment = environment_of(SPEC["workerGroupSpecs"][0])
    params = SPEC["headGroupSpec"]["rayStartParams"]
    with (
        head(tmp_path, environment_of(SPEC["headGroupSpec"]), **{k.replace("-", "_"): v for k, v in params.items()}) as first,
        worker(first, environment, num_cpus="1") as second,
    ):
        words = [sys.executable, "-c", _WORK]
        variables = second.environment | {"CLUSTER": first.address}
        with subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "submitted\n"
            wait_for_task(driver)
            assert second.process.args[0] == "/bin/bash"
            assert Path(f"/proc/{second.process.pid}/cmdline").read_bytes().split(b"\0")[1].endswith(b"/ray")  # it is process 1
            second.process.terminate()
            assert driver.stdout.read() == "finished\n"
        assert second.process.wait(60) == 1  # the node is idle, and ends before its 90 s are over


def wait_for_task(driver: subprocess.Popen[str]) -> None:
    """Wait until the task runs on the node that is no head: the only one with a CPU."""
    deadline = time.monotonic() + 60
    while not [p for p in psutil.process_iter(["cmdline"]) if "ray::work" in " ".join(p.info["cmdline"] or [])]:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_readme_names_files_that_there_are() -> None:
    text = (MANIFESTS / "README.md").read_text()
    named = re.findall(r"(?<![\w/])(?:cluster|jobs|tests)/[\w./*]+\w", text)
    assert len(named) > 10
    assert [name for name in named if not list(Path().glob(name))] == []
