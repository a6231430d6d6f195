"""``serve deploy`` of cluster/serve.yaml on a cluster: it answers, and takes another detector without a failed image."""

import asyncio
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from _bad_bodies import good_image
from _load import Load, photographs, sent
from _served import ask
from _small_detector import detector_of
from _started_node import Node, free_port, head

from rdd.clip import ClipEncoder
from rdd.on_ray.proxy import CALLBACK

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

TOKEN = "correct-horse-battery"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def config_for(detector: Path, port: int) -> dict[str, Any]:
    """The file of the project, on this machine and for a tiny detector."""
    config = yaml.safe_load(Path("cluster/serve.yaml").read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    (application,) = config["applications"]
    small = {"detector": str(detector), "weights": "", "device": "cpu", "precision": "fp32", "decoders": 1}
    application["args"] |= small
    application["deployments"][0]["user_config"] = {"detector": str(detector)}
    return config


def deploy(node: Node, config: dict[str, Any], folder: Path) -> None:
    place = folder / "serve.yaml"
    place.write_text(yaml.safe_dump(config))
    variables = node.environment | {"RAY_DASHBOARD_ADDRESS": node.environment["RAY_API_SERVER_ADDRESS"]}
    subprocess.run(["serve", "deploy", str(place)], env=variables, check=True, capture_output=True)


def wait_until_ready(url: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            if ask(url, "GET", "/readyz").status == 200:
                return
        except OSError:
            pass  # nothing listens yet
        assert time.monotonic() < until
        time.sleep(0.5)


def models(node: Node) -> list[int]:
    below = psutil.Process(node.process.pid).children(recursive=True)
    return [one.pid for one in below if "ServeReplica:rdd:Model" in " ".join(one.cmdline())]


def test_serve_deploy_takes_another_detector_without_a_failed_image(tiny_model: str, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for offset, folder in enumerate(folders):
        detector = detector_of(ClipEncoder(tiny_model, "random"))
        object.__setattr__(detector.calibration, "offset", float(offset))
        detector.save(str(folder))
    config, url = config_for(folders[0], port := free_port()), f"http://127.0.0.1:{port}"
    with head(tmp_path, {"RDD_SERVE_TOKEN": TOKEN, **CALLBACK}, num_cpus="2") as node:
        deploy(node, config, tmp_path)
        wait_until_ready(url)
        assert ask(url, "POST", "/predict", good_image()).reason == "token"
        assert ask(url, "GET", "/-/routes").status == 404
        first = ask(url, "GET", "/model", headers=BEARER).json["model_version"]
        before = models(node)

        async def load_and_deploy() -> Load:
            load = asyncio.create_task(sent(url, photographs(600), clients=4, headers=BEARER))
            config["applications"][0]["deployments"][0]["user_config"] = {"detector": str(folders[1])}
            await asyncio.to_thread(deploy, node, config, tmp_path)
            return await load

        load = asyncio.run(load_and_deploy())
        assert (load.codes, load.mixed_up, load.failures) == ({200: 600}, 0, [])
        until = time.monotonic() + 60
        while (second := ask(url, "GET", "/model", headers=BEARER).json["model_version"]) == first:
            assert time.monotonic() < until
            time.sleep(0.5)
        assert load.versions.keys() <= {first, second}
        assert models(node) == before  # the same process, which kept its encoder
