"""Ablations and the paper's figures: rows, seeds, kills, failures."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from _small import base_config
from synthetic import write_features

from rdd.config import Config
from rdd.config.parse import from_dict, override
from rdd.evaluation.probes import PROBES
from rdd.features import FeatureTable
from rdd.on_ray.ablate import rows_of, run_ablation
from rdd.on_ray.figures import _images_of_map, run_figures

pytestmark = pytest.mark.timeout(300)

ROWS = {
    "traditional1": {"features.text_mode": "none", "loss.alpha": 1.0, "loss.gamma": 1.0, "sam.enabled": False},
    "traditional2": {"loss.alpha": 1.0, "loss.gamma": 1.0, "sam.enabled": False},
    "without_sam": {"sam.enabled": False},
    "ours": {},
}


@pytest.fixture
def config(features: Path, tmp_path: Path) -> Config:
    values = {
        "ablate.output": str(tmp_path / "ablation"),
        "ablate.rows": ROWS,
        "ablate.seeds": 2,
        "ablate.resamples": 100,
        "train.epochs": 3,
    }
    return override(base_config(features, tmp_path), values)


@pytest.mark.slow
def test_rows_and_seeds_are_compared_and_drawn(ray_session, config: Config, tmp_path: Path) -> None:
    summary = run_ablation(config)
    output = Path(config.ablate.output)
    assert summary["runs"] == 6  # the features hold no text, so traditional2 is traditional1
    assert (output / "ablation.md").read_text().count("\n| ") == 7
    assert {path.name for path in output.glob("[a-z]*.*")} == {
        "ablation.csv",
        "ablation.md",
        "ablation.png",
        "config.yaml",
        "metrics.json",
    }
    runs = {seed: json.loads((output / "runs" / "ours" / f"seed-{seed}" / "metrics.json").read_text()) for seed in range(2)}
    assert summary["auroc"]["ours"] == pytest.approx(np.mean([run["test"]["auroc"] for run in runs.values()]))
    assert runs[0]["test"]["auroc"] != runs[1]["test"]["auroc"]
    assert not list(output.rglob("*.pt"))  # weights of finished runs: those of the detector
    assert len(list(output.rglob("detector.safetensors"))) == 6
    assert run_ablation(config) == summary
    check_in_mlflow(config, output)
    check_figures(config, output, tmp_path)


def check_in_mlflow(config: Config, output: Path) -> None:
    """The ablation, its seeds and its rows, with the numbers of the table."""
    from mlflow import MlflowClient

    client = MlflowClient(config.tracking.uri)
    (parent,) = client.search_runs(["1"], "tags.`rdd.job` = 'ablate'")
    below = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    seeds = client.search_runs(["1"], f"{below} and tags.`rdd.kind` = 'seed'")
    assert sorted(run.data.params["row"] for run in seeds) == sorted(["traditional1", "without_sam", "ours"] * 2)
    assert all(run.data.metrics["test/auroc"] > 0.5 for run in seeds)
    table = {line["row"]: line for line in csv.DictReader((output / "ablation.csv").open())}
    rows = {run.info.run_name: run for run in client.search_runs(["1"], f"{below} and tags.`rdd.kind` = 'row'")}
    assert rows.keys() == ROWS.keys() | PROBES.keys() == table.keys()
    for name in PROBES:
        assert 0.7 < float(table[name]["auroc"]) < 1
        assert float(table[name]["auroc_std"]) == 0
        assert float(table[name]["difference_low"]) <= float(table[name]["difference"]) <= float(table[name]["difference_high"])
        assert rows[name].data.params["ablate.probe_c"] == "0.01"
    for name, run in rows.items():
        assert run.data.metrics["auroc"] == pytest.approx(float(table[name]["auroc"]), abs=1e-8)
        assert run.data.metrics["auroc_low"] == pytest.approx(float(table[name]["auroc_low"]), abs=1e-8)
        assert run.data.tags["AUC 95 CI"].startswith(f"{float(table[name]['auroc']):.3f} [")
        assert ("vs ours 95 CI" in run.data.tags) == (name != "ours")
        if name in ROWS:
            assert run.data.params["sam.enabled"] == str(ROWS[name].get("sam.enabled", True))
    assert {name: rows[name].data.params["changes"].split("standardize")[0] for name in ROWS} == {
        "traditional1": "alpha 1, gamma 1, sam off, ",
        "traditional2": "alpha 1, gamma 1, sam off, ",
        "without_sam": "sam off, ",
        "ours": "",
    }
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "ablation")} == {
        "ablation/ablation.csv",
        "ablation/ablation.md",
        "ablation/ablation.png",
        "ablation/runs",
    }
    for name in ROWS:
        trained = "traditional1" if name == "traditional2" else name
        assert f"](runs/{trained}/seed-0/report.html)" in (output / "ablation.md").read_text()
        (page,) = client.list_artifacts(parent.info.run_id, f"ablation/runs/{trained}/seed-0")
        assert page.path.endswith("/report.html")


def check_figures(config: Config, output: Path, place: Path) -> None:
    """Figures of its runs are drawn, and those that say nothing are refused."""
    options = {
        "figures.output": str(place / "figures"),
        "figures.with_sam": str(output / "runs" / "ours" / "seed-0"),
        "figures.without_sam": str(output / "runs" / "without_sam" / "seed-0"),
        "figures.points": 5,
        "figures.map_records": 20,
        "figures.perplexity": 10.0,
    }
    drawn = run_figures(override(config, options))
    assert drawn["sharpness"].keys() == {"without SAM", "with SAM"}
    assert all(values["rise_in_ball"] > 0 for values in drawn["sharpness"].values())
    for name in drawn["figures"]:
        assert (place / "figures" / "figures" / name).read_bytes().startswith(b"\x89PNG")
    elsewhere = options | {"figures.output": str(place / "other")}
    run_of = {name: str(output / "runs" / name / "seed-0") for name in ("ours", "without_sam", "traditional1")}
    for changes, message in (
        ({"figures.perplexity": 60.0}, "perplexity must be below the 60 images of the map, got"),
        ({"figures.with_sam": run_of["without_sam"], "figures.without_sam": run_of["ours"]}, "must be a run without SAM"),
        ({"figures.without_sam": run_of["traditional1"]}, r"must differ in SAM alone, got other loss\."),
    ):
        with pytest.raises(ValueError, match=message):
            run_figures(override(config, elsewhere | changes))
    assert not (place / "other").exists()  # a refused request takes no directory
    with pytest.raises(ValueError, match="both or neither"):
        run_figures(override(config, options | {"figures.with_sam": ""}))


def test_logits_of_another_run_are_refused(ray_session, config: Config) -> None:
    rows = {"ours": {}, "without_sam": {"sam.enabled": False}}
    small = override(config, {"ablate.rows": rows, "ablate.seeds": 1, "tracking.enabled": False})
    run_ablation(small)
    runs = Path(config.ablate.output) / "runs"
    shutil.copy(runs / "without_sam" / "seed-0" / "test_logits.parquet", runs / "ours" / "seed-0" / "test_logits.parquet")
    (Path(config.ablate.output) / "metrics.json").unlink()
    with pytest.raises(RuntimeError, match=r"the logits in .*ours/seed-0 are not those of its metrics\.json; delete it"):
        run_ablation(small)


def test_a_map_of_equal_points_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_features(tmp_path / "equal", records=30, images=2, width=8)
    table = FeatureTable.load(path)
    config = override(Config(), {"figures.perplexity": 10.0})
    assert len(_images_of_map(config, table)) == 60
    rows = table.matrices["projected"]
    equal = replace(table, matrices={"projected": rows[rng.integers(3, size=len(rows))]})
    with pytest.raises(ValueError, match="perplexity must be below the 3 images of the map that differ, got 10.0"):
        _images_of_map(config, equal)


def test_finished_runs_are_kept_and_a_failed_one_is_named(ray_session, config: Config) -> None:
    broken = {"ours": {}, "broken": {"optimizer.lr": 1e38}}
    failing = override(config, {"ablate.rows": broken, "ablate.seeds": 1, "tracking.enabled": False})
    with pytest.raises(RuntimeError, match=r"1 of 2 runs failed, the others are kept: broken/seed-0: .*not finite"):
        run_ablation(failing)
    kept = Path(config.ablate.output) / "runs" / "ours" / "seed-0" / "metrics.json"
    moment = kept.stat().st_mtime
    with pytest.raises(RuntimeError, match="1 of 2 runs failed"):
        run_ablation(failing)
    assert kept.stat().st_mtime == moment


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "must hold the row ours, got none"),
        ({"mine": {}}, "must hold the row ours, got mine"),
        ({"ours": {"loss.alpha": 2.0}}, "loss.alpha must lie in"),
        ({"ours": {"loss.alhpa": 0.5}}, "unknown key"),
        ({"ours": {"scaling.num_workers": 2}}, "may override what a training run depends on"),
        ({"ours": {}, "other": {"features.split_seed": 3}}, "must share the feature set and its split"),
        ({"ours": {}, "a/b": {}}, "named by letters"),
        ({"ours": {}, 2024: {}}, "must be named by text, got 2024; put it in quotes"),
        ({"ours": {}, "nearest_neighbours": {}}, "must have other names than the baselines of every table"),
        ({"ours": 3}, "must be overrides by dotted path"),
    ],
)
def test_what_an_ablation_refuses(config: Config, rows: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_ablation(override(config, {"ablate.rows": rows}))


def test_the_named_rows_are_the_named_configurations() -> None:
    tree = yaml.safe_load(Path("jobs/configs/ablation.yaml").read_text())
    rows = rows_of(from_dict(tree))
    for name, row in rows.items():
        named = from_dict(yaml.safe_load(Path(f"jobs/configs/{name}.yaml").read_text()))
        settings = [(one.model, one.loss, one.sam, one.features) for one in (row, named)]
        assert settings[0] == settings[1], name
    assert len(rows) == 7
