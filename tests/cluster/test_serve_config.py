"""What ``serve deploy`` and KubeRay are given: one application, which Ray Serve reads and which fits on its pods."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from _kuberay_schema import MANIFESTS
from ray.serve._private.build_app import build_app
from ray.serve.schema import ServeDeploySchema

from rdd.on_ray.proxy import CALLBACK
from rdd.on_ray.serve import app
from rdd.serving.web.settings import TOKEN_VARIABLE

pytestmark = pytest.mark.timeout(60)

CONFIG = yaml.safe_load((MANIFESTS.parent / "serve.yaml").read_text())
SERVICE = yaml.safe_load((MANIFESTS / "ray_service.yaml").read_text())["spec"]
TOKEN = "correct-horse-battery"


def test_ray_serve_reads_it_and_knows_every_field() -> None:
    read = ServeDeploySchema(**CONFIG).model_dump(exclude_unset=True)
    assert (read["http_options"]["port"], read["applications"][0]["import_path"]) == (8000, "rdd.on_ray.serve:app")
    assert set(places(CONFIG)) <= set(places(read))  # Ray leaves aside what it does not know


def places(node: Any, way: str = "") -> Iterator[str]:
    """Each field by its dotted place."""
    entries = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in entries:
        yield f"{way}{name}"
        yield from places(value, f"{way}{name}.")


def test_kubernetes_is_given_the_same_application() -> None:
    given = yaml.safe_load(SERVICE["serveConfigV2"])
    assert given["applications"] == CONFIG["applications"]
    assert given["http_options"] == CONFIG["http_options"]


def deployments(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    built = build_app(app(CONFIG["applications"][0]["args"]), name="rdd", make_deployment_handle=lambda *_: None)
    return {one.name: one for one in built.deployments}


def test_the_application_is_built_and_its_processes_fit_on_the_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    found = deployments(monkeypatch)
    assert {one["name"] for one in CONFIG["applications"][0]["deployments"]} <= found.keys()
    (group,) = SERVICE["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    for unit, most in (("num_cpus", float(limits["cpu"])), ("num_gpus", float(limits["nvidia.com/gpu"]))):
        needed = sum(one.ray_actor_options.get(unit, 0) * one.num_replicas for one in found.values())
        assert 0 < needed <= most * group["maxReplicas"]


def test_every_queue_is_bounded_and_answers_429_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in deployments(monkeypatch).values():
        assert one.max_queued_requests > 0
        full = one._deployment_config.backpressure_config
        assert (full.status_code, full.retry_after_s) == (429, 2.0)


def test_the_detector_of_the_start_is_that_of_the_reload() -> None:
    (application,) = CONFIG["applications"]
    (model,) = [one for one in application["deployments"] if one["name"] == "Model"]
    assert model["user_config"] == {"detector": application["args"]["detector"]}


def test_the_pod_is_ready_when_the_model_is() -> None:
    container = SERVICE["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    probe = container["readinessProbe"]["httpGet"]
    assert probe["path"] == "/readyz"
    assert {port["name"]: port["containerPort"] for port in container["ports"]}[probe["port"]] == CONFIG["http_options"]["port"]
    assert {"secretRef": {"name": "rdd-serve-token"}} in container["envFrom"]
    ((name, value),) = CALLBACK.items()
    assert {"name": name, "value": value} in container["env"]


def test_without_a_token_or_with_an_unknown_setting_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = CONFIG["applications"][0]["args"]
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(ValueError, match="must hold a token of at least 16 characters, got none"):
        app(arguments)
    assert app(arguments | {"without_token": True})
    (tmp_path / "token").write_text(TOKEN)
    assert app(arguments | {"token_file": str(tmp_path / "token")})
    with pytest.raises(ValueError, match="args must be among detector, .* got batchsize"):
        app(arguments | {"batchsize": 8})
    with pytest.raises(ValueError, match="args must name the detector, got none"):
        app({"weights": "openai"})
