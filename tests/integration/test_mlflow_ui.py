"""What a person sees in MLflow: the table of training runs and the compare page, in a real browser on a real server."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from _small import base_config

from rdd.config import Config, TrackingConfig
from rdd.config.parse import override
from rdd.on_ray.ablate import run_ablation
from rdd.tracking.pages import compare_page, training_page

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here: apt-get install chromium"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(Path(sys.executable).parent / "mlflow"), "server", "--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    words += ["--artifacts-destination", str(tmp_path / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2)
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.3)
    yield address
    os.killpg(process.pid, signal.SIGTERM)  # the server and the workers that it starts
    process.wait(30)


@pytest.fixture
def page(server: str) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1900, "height": 700})
        # MLflow's assistant would open over the table
        context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        yield context.new_page()
        browser.close()


def test_the_ablation_is_read_in_the_browser(ray_session, features: Path, tmp_path: Path, server: str, page) -> None:
    from mlflow import MlflowClient

    rows = {"without_sam": {"sam.enabled": False, "sam.rho": 0.01}, "ours": {"loss.alpha": 0.7}}
    values = {
        "ablate.output": str(tmp_path / "ablation"),
        "ablate.rows": rows,
        "ablate.seeds": 1,
        "ablate.resamples": 100,
        "train.epochs": 3,
        "tracking.uri": server,
    }
    config: Config = override(base_config(features, tmp_path), values)
    run_ablation(config)
    client = MlflowClient(server)
    children = client.search_runs(["1"], "tags.`rdd.job` = 'ablate-trial'")
    assert len(children) == 2

    page.goto(server + training_page(TrackingConfig(uri=server)))
    page.get_by_text("2 matching runs").wait_for(timeout=60_000)
    shown = ("val/auroc", "test/auroc", "train/loss_cvar", "train/loss_auc")
    for name in shown:
        page.locator(f".ag-header-cell[col-id='metrics.`{name}`']").wait_for(timeout=20_000)
    for place, child in enumerate(sorted(children, key=lambda run: -run.data.metrics["val/auroc"])):
        row = f".ag-row[row-index='{place}'] "
        for name in ("row", "train.seed", "loss.alpha", "loss.gamma", "loss.p", "sam.rho"):
            assert page.locator(f"{row}.ag-cell[col-id='params.`{name}`']").inner_text().strip() == child.data.params[name]
        for name in shown:
            text = page.locator(f"{row}.ag-cell[col-id='metrics.`{name}`']").inner_text()
            assert float(text) == pytest.approx(child.data.metrics[name], rel=1e-6)
    if picture := os.environ.get("RDD_SCREENSHOT"):
        page.screenshot(path=picture)

    page.goto(server + compare_page("1", [child.info.run_id for child in children]))
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for(timeout=60_000)
    page.get_by_role("button", name="Visualizations").click()
    table = page.locator("table.mlflow-compare-run-table").all_inner_texts()
    parameters = {line.split("\t")[0]: line.split("\t")[1:] for text in table for line in text.splitlines() if "\t" in line}
    assert sorted(parameters["row"]) == ["ours", "without_sam"]
    assert sorted(parameters["loss.alpha"]) == ["0.7", "0.8"]
    body = page.inner_text("body")
    for name in ("val/auroc", "test/auroc", "train/sharpness"):
        assert name in body
    for child in children:
        assert f"{child.data.metrics['test/auroc']:.3f}".rstrip("0") in body
