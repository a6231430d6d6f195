"""Rules beyond the fields: those that KubeRay's controller adds at 1.7.0, and those of Kubernetes that concern the manifests.

KubeRay's are those of ``ray-operator/controllers/ray/utils/validation.go`` for what a RayCluster, a RayJob and a RayService of
ours may hold; left out are history server, network policy, TLS, Redis and incremental upgrades. One that breaks a rule is
accepted by Kubernetes, and then never becomes a pod.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from packaging.version import Version

Node = Mapping[str, Any]

_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")  # DNS-1035
_LONGEST_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
_RESOURCE_PARAMS = {"num-cpus", "num-gpus", "memory", "resources"}
_MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
_AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"


def broken_rules(manifest: Node) -> list[str]:
    """Each rule that a manifest breaks, as a sentence; empty where all is well."""
    kind = manifest["kind"]
    if kind == "RayCluster":
        return [*_name(manifest), *_cluster(manifest["spec"])]
    if kind == "RayJob":
        return [*_name(manifest), *_job(manifest["spec"])]
    if kind == "RayService":
        return [*_name(manifest), *_service(manifest["spec"])]
    if kind == "PodDisruptionBudget":
        return list(_budget(manifest["spec"]))
    return []


def groups_of(cluster: Node) -> list[Node]:
    """Head and workers of a RayCluster's spec."""
    return [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]


def _name(manifest: Node) -> Iterator[str]:
    name, longest = manifest["metadata"]["name"], _LONGEST_NAME[manifest["kind"]]
    if len(name) > longest:
        yield f"the name of a {manifest['kind']} must have at most {longest} characters, got {len(name)}"
    if not _LABEL.fullmatch(name):
        yield f"a name must be a DNS-1035 label, got {name}"


def _cluster(spec: Node) -> Iterator[str]:
    yield from _authentication(spec)
    yield from _autoscaler(spec)
    for group in groups_of(spec):
        yield from _group(group)
    for group in spec.get("workerGroupSpecs", []):
        yield from _workers(group, spec)


def _authentication(spec: Node) -> Iterator[str]:
    auth, version = spec.get("authOptions", {}), spec.get("rayVersion", "")
    by_kubernetes = auth.get("enableK8sTokenAuth", False)
    if auth.get("mode") != "token":
        yield "authOptions.mode must be token, which is this project's own rule"
        return
    if not re.fullmatch(r"\d+(\.\d+)+", version):
        yield f"rayVersion must be a version where authOptions.mode is token, got {version!r}"
    elif Version(version) < Version("2.55.0" if by_kubernetes else "2.52.0"):
        yield f"rayVersion must be 2.52.0 at least for a token, 2.55.0 for one of Kubernetes, got {version}"
    if by_kubernetes and auth.get("secretName"):
        yield "authOptions must not have enableK8sTokenAuth and secretName"


def _autoscaler(spec: Node) -> Iterator[str]:
    options, on = spec.get("autoscalerOptions", {}), spec.get("enableInTreeAutoscaling", False)
    switch = [entry.get("value") for entry in _environment(spec["headGroupSpec"]) if entry["name"] == _AUTOSCALER_V2]
    if not on and set(switch) & {"1", "true"}:
        yield f"{_AUTOSCALER_V2} must not be on where enableInTreeAutoscaling is off"
    if on and "version" in options and switch:
        yield f"{_AUTOSCALER_V2} must not be set beside autoscalerOptions.version"
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds must be at least 0"
    if on and options.get("version") == "v2":
        for group in groups_of(spec):
            if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield "restartPolicy must be Never under autoscaler v2"


def _environment(group: Node) -> list[Node]:
    containers = group["template"]["spec"]["containers"]
    return containers[0].get("env", []) if containers else []


def _group(group: Node) -> Iterator[str]:
    params = group.get("rayStartParams", {})
    if not group["template"]["spec"]["containers"]:
        yield "a group must have a container"
    if group.get("resources") and _RESOURCE_PARAMS & set(params):
        yield "resources must be in rayStartParams or in the group, not in both"
    if "labels" in params:
        yield "labels must be those of the group, not in rayStartParams"
    yield from _pod(group["template"]["spec"])


def _workers(group: Node, spec: Node) -> Iterator[str]:
    version_2 = spec.get("autoscalerOptions", {}).get("version") == "v2"
    if not 0 <= group["minReplicas"] <= group["maxReplicas"]:
        yield f"replicas must be 0 <= minReplicas <= maxReplicas, got {group['minReplicas']} and {group['maxReplicas']}"
    if group.get("suspend"):
        yield "a group must not be suspended"
    if group.get("idleTimeoutSeconds", 0) < 0:
        yield "idleTimeoutSeconds of a group must be at least 0"
    if ("idleTimeoutSeconds" in group or group.get("priority")) and not version_2:
        yield "idleTimeoutSeconds and priority of a group must go with autoscaler v2"


def _pod(pod: Node) -> Iterator[str]:
    """Kubernetes' own rules, checked when KubeRay makes the pod; that requests are the limits is this project's."""
    for container in pod["containers"]:
        sizes = container.get("resources", {})
        if not sizes.get("limits") or sizes.get("requests") != sizes["limits"]:
            yield f"requests must be the limits in {container['name']}"
        names = [port["name"] for port in container.get("ports", [])]
        if len(set(names)) < len(names) or any(len(name) > 15 for name in names):
            yield f"ports must have names of their own of at most 15 characters, got {', '.join(names)}"
    for toleration in pod.get("tolerations", []):
        if toleration.get("operator", "Equal") not in ("Exists", "Equal") or toleration["effect"] not in _EFFECTS:
            yield f"a toleration must have an operator and an effect that Kubernetes knows, got {toleration}"
    yield from _affinity(pod.get("affinity", {}).get("nodeAffinity", {}))


_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def _affinity(affinity: Node) -> Iterator[str]:
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    terms = [term["preference"] for term in preferred]
    terms += affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms", [])
    if any(not 1 <= term["weight"] <= 100 for term in preferred):
        yield "the weight of a preference must lie in [1, 100]"
    for expression in (expression for term in terms for expression in term["matchExpressions"]):
        with_values = expression["operator"] in ("In", "NotIn") and expression.get("values")
        if not with_values and (expression["operator"] not in ("Exists", "DoesNotExist") or expression.get("values")):
            yield f"an expression must be In or NotIn some values, Exists or DoesNotExist, got {expression}"


def _job(spec: Node) -> Iterator[str]:
    selects, mode = "clusterSelector" in spec, spec.get("submissionMode", "K8sJobMode")
    if mode not in _MODES:
        yield f"submissionMode must be one of {', '.join(sorted(_MODES))}, got {mode}"
    if selects == ("rayClusterSpec" in spec):
        yield "a RayJob must have clusterSelector or rayClusterSpec"
    if selects and not spec["clusterSelector"].get("ray.io/cluster"):
        yield "clusterSelector must name a cluster as ray.io/cluster"
    if selects and mode == "SidecarMode":
        yield "submissionMode must not be SidecarMode where there is a clusterSelector"
    if spec.get("backoffLimit", 0) > 0 and (selects or mode == "InteractiveMode"):
        yield "backoffLimit must be 0 where there is a clusterSelector, and in InteractiveMode"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "SidecarMode must come without submitterPodTemplate and submitterConfig"
    yield from _job_times(spec)
    yield from _job_end(spec, selects)
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        yield "runtimeEnvYAML must be a mapping in YAML"
    if "rayClusterSpec" in spec:
        yield from _cluster(spec["rayClusterSpec"])


def _job_times(spec: Node) -> Iterator[str]:
    for name, least in (("activeDeadlineSeconds", 1), ("preRunningDeadlineSeconds", 1), ("ttlSecondsAfterFinished", 0)):
        if spec.get(name, least) < least:
            yield f"{name} must be at least {least}"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit must be at least 0"


def _job_end(spec: Node, selects: bool) -> Iterator[str]:
    ends = spec.get("shutdownAfterJobFinishes", False)
    if spec.get("suspend") and (selects or not ends):
        yield "suspend must go with shutdownAfterJobFinishes, and not with clusterSelector"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not ends:
        yield "ttlSecondsAfterFinished must go with shutdownAfterJobFinishes"
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    if rules and ends:
        yield "deletionRules must not go with shutdownAfterJobFinishes"
    if selects and any(rule["policy"] in ("DeleteCluster", "DeleteWorkers") for rule in rules):
        yield "deletionRules must not delete the cluster of a clusterSelector"


_UPGRADES = ("NewCluster", "None")


def _service(spec: Node) -> Iterator[str]:
    cluster = spec["rayClusterConfig"]
    if cluster.get("authOptions", {}).get("enableK8sTokenAuth"):
        yield "authOptions of a RayService must not have enableK8sTokenAuth"
    yield from _cluster(cluster)
    if cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "headService of a RayService must have no name of its own"
    if (upgrade := spec.get("upgradeStrategy", {}).get("type", "NewCluster")) not in _UPGRADES:
        yield f"upgradeStrategy.type must be one of {', '.join(_UPGRADES)} here, got {upgrade}"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds must be at least 0"
    if not isinstance(yaml.safe_load(spec.get("serveConfigV2", "")), dict):
        yield "serveConfigV2 must be a mapping in YAML"


def _budget(spec: Node) -> Iterator[str]:
    """A RayCluster has no scale subresource, and without one Kubernetes counts pods for a whole minAvailable alone."""
    if "maxUnavailable" in spec or not isinstance(spec.get("minAvailable"), int):
        yield "a budget for pods of a RayCluster must be a whole minAvailable"
