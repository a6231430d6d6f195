"""A cluster as a user starts it: the YAML, token authentication, and a job submitted to its end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

from rdd import storage
from rdd.schema import features_schema

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def test_the_cluster_file_passes_rays_own_schema_and_its_files_exist() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(Path("ray_cluster.yaml").read_text())
    validate_config(prepare_config(config))  # as ray up does
    assert config["head_node_type"] in config["available_node_types"]
    assert all(Path(source).exists() for source in config["file_mounts"].values())
    subprocess.run(["bash", "-n", "cluster/setup_node.sh"], check=True)


COMMIT = "0123456789abcdef-of-a-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Environment of whoever may talk to a head of its own, with token authentication."""
    token, port, folder = tmp_path / "token", free_port(), Path("/tmp") / f"ray-{os.getpid()}"
    token.write_text("a-token-of-this-test-alone-0123456789")
    dashboard = free_port()
    env = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    words = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}"]
    words += [f"--temp-dir={folder}", "--disable-usage-stats", f"--dashboard-agent-listen-port={free_port()}"]
    process = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 90
    while not answers(f"{address}/api/version") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert process.poll() is None
    yield env | {"RAY_API_SERVER_ADDRESS": address, "CLUSTER_ADDRESS": f"127.0.0.1:{port}"}
    process.send_signal(signal.SIGTERM)  # --block ends what it started
    process.wait(60)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # it wants the token
    except OSError:
        return False
    return True


def write_features(folder: Path) -> None:
    """Sixty records of a real and a generated image each, easy to tell apart."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(60):
        vectors = torch.randn(2, 8, generator=generator) + torch.tensor([[0.0], [4.0]])
        rows.append({"record_id": f"r{i}", "generators": ["real", "sd"], "projected": vectors.half().numpy().tobytes()})
    schema = features_schema(["projected"])
    full = [{name: row.get(name) for name in schema.names} for row in rows]
    storage.write_table(str(folder / "data" / "a.parquet"), pa.Table.from_pylist(full, schema=schema))
    manifest = {"embed_dim": 8, "text": False, "records_written": 60, "images": 120}
    manifest["features"] = {"projected": {"width": 8, "dtype": "float16"}}
    storage.write_json(str(folder / "manifest.json"), manifest | {"encoder": {"model": "none", "embed_dim": 8}})


def submit(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    """Submit, again while the new head's agent is still on its way."""
    deadline = time.monotonic() + 60
    while True:
        done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=240)
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def job(name: str, tmp_path: Path, values: dict[str, object]) -> list[str]:
    """Words that submit a job on small features, of a commit that only the environment of the job names."""
    common = {
        "features.path": tmp_path / "features",
        "features.text_mode": "none",
        "features.validation_share": 0.3,
        "features.test_share": 0.3,
        "model.hidden": 64,
        "optimizer.lr": 0.003,
        "train.batch_size": 32,
        "train.threads_per_worker": 1,
        "tracking.enabled": "false",
    }
    settings = [word for path, value in (common | values).items() for word in (f"--{path}", str(value))]
    commit = f"RDD_GIT_COMMIT={COMMIT}"
    return ["ray", "job", "submit", "--working-dir", ".", "--", "env", commit, "python", f"jobs/{name}.py", *settings]


def commit_of(run: Path) -> str:
    return json.loads((run / "detector" / "detector.json").read_text())["provenance"]["git_commit"]


@pytest.mark.slow
def test_submitted_jobs_run_to_their_end_and_name_their_commit(head: dict[str, str], tmp_path: Path) -> None:
    write_features(tmp_path / "features")
    values = {"train.epochs": 15, "train.output": tmp_path / "run", "scaling.num_workers": 2, "scaling.cpus_per_worker": 0.5}
    done = submit(job("train", tmp_path, values), head)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"job": "train"')))
    assert summary["test_auroc"] > 0.8
    assert summary["epochs"] == 15
    assert "attached to the Ray cluster" in done.stdout + done.stderr
    assert commit_of(tmp_path / "run") == COMMIT
    rows = json.dumps({"ours": {}, "no_sam": {"sam.enabled": False}})
    values = {"ablate.output": tmp_path / "ablation", "ablate.rows": rows, "ablate.seeds": 1, "train.epochs": 2}
    done = submit(job("ablate", tmp_path, values | {"ablate.cpus_per_run": 0.5, "ablate.resamples": 100}), head)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for row in ("ours", "no_sam"):
        assert commit_of(tmp_path / "ablation" / "runs" / row / "seed-0") == COMMIT
    refused = subprocess.run(
        ["ray", "job", "submit", "--working-dir", "cluster", "--", "true"],
        env={k: v for k, v in head.items() if not k.startswith("RAY_AUTH")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode != 0
