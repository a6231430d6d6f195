"""The page about a run as a training leaves it, as the job makes it anew, and as a browser shows it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from _small import base_config, write_small_features
from mlflow import MlflowClient

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.on_ray.train import run_training
from rdd.runs.evaluate import run_evaluation
from rdd.runs.report import run_report

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
HOSTILE = """<script>document.title='run'</script><img src="http://127.0.0.1:9/x" onerror="document.title='run'">"""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A finished training, and an evaluation of it, on a set with a generator whose name is markup."""
    folder = tmp_path_factory.mktemp("page")
    features = write_small_features(folder / "features")
    place = str(features / "data" / "a.parquet")
    table = storage.read_table(place, way_out="")
    at = table.schema.get_field_index("generators")
    names = pa.array([["real", "easy", HOSTILE]] * table.num_rows, table.schema.field(at).type)
    storage.write_table(place, table.set_column(at, table.schema.field(at), names))
    values = {"evaluate.run": str(folder / "run"), "evaluate.output": str(folder / "evaluated"), "train.epochs": 4}
    made = override(base_config(features, folder), values)
    run_training(made)
    run_evaluation(made)
    return made


def pages(config: Config) -> list[Path]:
    return [Path(folder, "report.html") for folder in (config.train.output, config.evaluate.output)]


def test_a_training_and_an_evaluation_leave_a_page_beside_their_files_and_in_mlflow(config: Config) -> None:
    client = MlflowClient(config.tracking.uri)
    for page in pages(config):
        assert "The answer" in page.read_text()
        (run,) = client.search_runs(["1"], f"tags.`rdd.output` = '{page.parent}'")
        assert [file.path for file in client.list_artifacts(run.info.run_id, "report")] == ["report/report.html"]
    text = pages(config)[1].read_text()
    assert "The images are not at hand" in text  # these features come from no records
    assert "python jobs/robustness.py" in text
    assert "python jobs/audit.py" not in text  # the training has audited the same features


def test_the_job_makes_the_page_anew_and_refuses_what_is_of_another_run(config: Config, tmp_path: Path, caplog) -> None:
    asked = override(config, {"report.run": config.train.output, "report.images": 3})
    before = len(MlflowClient(config.tracking.uri).search_runs(["1"]))
    summary = run_report(asked)
    assert summary["output"] == str(pages(config)[0])
    assert summary["mlflow_runs"] == 1
    assert pages(config)[0].read_text().count("called ") == 6
    assert len(MlflowClient(config.tracking.uri).search_runs(["1"])) == before
    caplog.set_level("WARNING", logger="rdd")
    assert run_report(override(asked, {"tracking.uri": "http://127.0.0.1:9"}))["mlflow_runs"] == 0
    assert "MLflow did not take report.html" in caplog.text
    copies = {"output": "", "images": 1, "images_left_out": 0, "curves": {}, "copies": {}, "threshold": -77.0}
    storage.write_json(str(tmp_path / "robustness.json"), copies)
    storage.write_json(str(tmp_path / "audit.json"), {"red": [], "properties": {}, "features": "other"})
    for changes, message in (
        ({"report.run": str(tmp_path)}, "report.run must name a finished run or evaluation, got .* without metrics.json"),
        ({"report.robustness": str(tmp_path)}, "report.robustness must be of the detector in .*, got .* with -77.0"),
        ({"report.audit": str(tmp_path)}, "report.audit must be of the features that were tested, .*, got"),
        ({"report.audit": str(tmp_path / "none")}, "report.audit must name a finished audit, got .* without audit.json"),
    ):
        with pytest.raises(ValueError, match=message):
            run_report(override(asked, changes))


@pytest.fixture
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


CONTRASTS = """() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4); return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2] }
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor
    if (!/, 0\\)$/.test(c)) return c } return 'rgb(255, 255, 255)' }
  return [...document.querySelectorAll('body *')].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
    .map(e => { const s = getComputedStyle(e), ink = e.namespaceURI.endsWith('svg') ? s.fill : s.color
      const [a, b] = [light(ink), light(ground(e))].sort(); return [(b + 0.05) / (a + 0.05), e.tagName + '.' + e.className] })
    .filter(pair => pair[0] < 4.5) }"""


@pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here: apt-get install chromium")
def test_a_browser_shows_it_anywhere_and_fetches_nothing(config: Config, browser) -> None:
    for scheme, width in (("light", 360), ("dark", 1280)):
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
        asked, said = [], []
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
        for file in pages(config):
            page.goto(f"file://{file}")
            assert "report of " in page.title()  # what a generator is called has not become a script
            assert page.get_by_text("document.title").count() > 0
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(CONTRASTS) == [], scheme
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert said == []
        page.close()
    page = browser.new_page()
    page.goto(f"file://{pages(config)[0]}")
    assert page.pdf(format="A4").startswith(b"%PDF")
