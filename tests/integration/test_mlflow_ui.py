"""What a person sees in MLflow: the table of training runs and the compare page, in a real browser on a real server."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from _mlflow import mlflow_server
from _small import base_config
from mlflow import MlflowClient

from rdd.config import Config
from rdd.config.parse import override
from rdd.on_ray.ablate import run_ablation
from rdd.on_ray.protocol import run_protocol
from rdd.on_ray.train import run_training
from rdd.tracking.pages import page_of, pages

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(params=["assistant closed", "assistant open"])
def page(server: str, request: pytest.FixtureRequest) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        if request.param == "assistant closed":
            context.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        yield context.new_page()
        browser.close()


@pytest.fixture(scope="module")
def ablation(ray_session, features: Path, tmp_path_factory: pytest.TempPathFactory, server: str) -> Config:
    """Two rows over two seeds, a run of its own, and a protocol of two rounds, on the server."""
    folder = tmp_path_factory.mktemp("compared")
    rows = {"without_sam": {"sam.enabled": False, "sam.rho": 0.01}, "ours": {"loss.alpha": 0.7}}
    values = {
        "ablate.output": str(folder / "ablation"),
        "ablate.rows": rows,
        "ablate.seeds": 2,
        "ablate.resamples": 100,
        "train.epochs": 3,
        "tracking.uri": server,
    }
    config: Config = override(base_config(features, folder), values)
    run_ablation(config)
    run_training(config)
    run_protocol(override(config, {"protocol.output": str(folder / "protocol")}))
    return config


def in_sight(page, column: str) -> bool:
    """Whether a column's header lies within the table that is seen, and is not scrolled out of it."""
    header = page.locator(f".ag-header-cell[col-id='{column}']")
    header.wait_for(timeout=20_000)
    table = page.locator(".ag-root-wrapper").bounding_box()
    box = header.bounding_box()
    return box["x"] >= table["x"] and box["x"] + box["width"] <= table["x"] + table["width"] + 1


CHANGES = "params.`changes`"


def test_the_rows_of_an_ablation_are_read_at_a_glance(ablation: Config, page) -> None:
    address = page_of(ablation.tracking, "row")
    page.goto(address)
    page.get_by_text("4 matching runs").wait_for(timeout=60_000)
    client = MlflowClient(ablation.tracking.uri)
    runs = {run.info.run_name: run for run in client.search_runs(["1"], "tags.`rdd.kind` = 'row'")}
    for place, name in enumerate(("without_sam", "ours")):  # in the order of the table
        row = f".ag-row[row-index='{place}'] "
        assert name in page.locator(f"{row}.ag-cell[col-id='attributes.`Run Name`']").inner_text()
        for tag in ("AUC 95 CI", "vs ours 95 CI", "p value"):
            shown = page.locator(f"{row}.ag-cell[col-id='tags.`{tag}`']").inner_text().strip()
            assert shown == runs[name].data.tags.get(tag, "-")
        changed = page.locator(f"{row}.ag-cell[col-id='{CHANGES}']").inner_text().strip()
        assert changed == runs[name].data.params["changes"]
    assert all(in_sight(page, f"tags.`{tag}`") for tag in ("AUC 95 CI", "vs ours 95 CI", "p value"))
    assert in_sight(page, CHANGES)
    screenshot(page, "rows")


def test_seeds_and_single_runs_are_apart(ablation: Config, page) -> None:
    for kind, number in (("seed", 4), ("training", 1), ("round", 2)):
        page.goto("about:blank")
        page.goto(page_of(ablation.tracking, kind))
        page.get_by_text(f"{number} matching run").wait_for(timeout=60_000)
        assert in_sight(page, CHANGES)
        assert in_sight(page, "tags.`AUC 95 CI`" if kind == "round" else "metrics.`val/auroc`")
        screenshot(page, kind)
    titles = ["the rows of ablations", "the runs of ablations", "the rounds of protocols", "single training runs"]
    assert list(pages(ablation.tracking)) == titles


def test_runs_are_compared_side_by_side(ablation: Config, page) -> None:
    client = MlflowClient(ablation.tracking.uri)
    children = client.search_runs(["1"], "tags.`rdd.kind` = 'seed' and params.`train.seed` = '0'")
    ids = quote(json.dumps([child.info.run_id for child in children]))
    page.goto(f"{ablation.tracking.uri}/#/compare-runs?runs={ids}&experiments={quote(json.dumps(['1']))}")
    page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for(timeout=60_000)
    page.get_by_role("button", name="Visualizations").click()
    table = page.locator("table.mlflow-compare-run-table").all_inner_texts()
    parameters = {line.split("\t")[0]: line.split("\t")[1:] for text in table for line in text.splitlines() if "\t" in line}
    assert sorted(parameters["row"]) == ["ours", "without_sam"]
    assert sorted(parameters["loss.alpha"]) == ["0.7", "0.8"]
    assert all("sam off" in text or "alpha 0.7" in text for text in parameters["changes"])
    for name in ("test/auroc", "train/sharpness", "val/auroc"):  # in the order of the page, which draws what is nearly in sight
        scroll_to(page, name)
    screenshot(page, "compared")


def scroll_to(page, name: str) -> None:
    """Down the page until it has drawn a text, and to that."""
    text = page.get_by_text(name, exact=True)
    page.mouse.move(720, 600)
    for _ in range(100):
        if text.count():
            break
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(200)
    text.first.scroll_into_view_if_needed()


def screenshot(page, name: str) -> None:
    """Kept for a person's eyes where RDD_SCREENSHOTS names a folder."""
    if folder := os.environ.get("RDD_SCREENSHOTS"):
        page.wait_for_timeout(1500)
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{folder}/{name}-{len(list(Path(folder).glob(f'{name}-*')))}.png")
