"""Heads on named features: every stage from training to figures, on a block, and what is refused before any work."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from _small import base_config

from rdd.config import Config
from rdd.config.parse import override
from rdd.detector import Detector
from rdd.evaluation.probes import PROBES
from rdd.on_ray.ablate import run_ablation
from rdd.on_ray.figures import run_figures
from rdd.on_ray.train import run_training
from rdd.on_ray.tune import run_sweep
from rdd.runs.evaluate import run_evaluation

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def config(features: Path, tmp_path: Path) -> Config:
    """A run on a block that is half as wide as the projection."""
    values = {
        "features.inputs": ["block_2"],
        "train.epochs": 3,
        "tracking.enabled": False,
        "tune.output": str(tmp_path / "sweep"),
        "tune.space": {"sam.rho": {"loguniform": [0.005, 0.5]}},
        "tune.num_trials": 2,
        "tune.scheduler": "none",
        "ablate.output": str(tmp_path / "ablation"),
        "ablate.rows": {
            "ours": {},
            "without_sam": {"sam.enabled": False},
            "both": {"features.inputs": ["block_2", "projected"]},
        },
        "ablate.seeds": 1,
        "ablate.resamples": 100,
    }
    return override(base_config(features, tmp_path), values)


def inputs_of(run: Path | str) -> dict[str, int]:
    detector = Detector.load(f"{run}/detector")
    assert detector.head.in_features == sum(detector.inputs.values())
    return detector.inputs


@pytest.mark.slow
def test_every_stage_runs_on_a_block(ray_session, config: Config, tmp_path: Path) -> None:
    trained = run_training(config)
    assert inputs_of(trained["run_dir"]) == {"block_2": 4}
    options = {"evaluate.run": trained["run_dir"], "evaluate.output": str(tmp_path / "evaluated")}
    evaluated = run_evaluation(override(config, options | {"features.inputs": ["projected"]}))  # takes those of the detector
    assert evaluated["test_auroc"] == trained["test_auroc"]
    swept = run_sweep(override(config, {"scaling.num_workers": 1}))
    assert yaml.safe_load(Path(swept["best_config"]).read_text())["features"]["inputs"] == ["block_2"]
    ablation = run_ablation(config)
    assert set(ablation["auroc"]) == {"ours", "without_sam", "both", *PROBES}
    runs = Path(config.ablate.output) / "runs"
    assert inputs_of(runs / "both" / "seed-0") == {"block_2": 4, "projected": 8}
    figures = {
        "figures.output": str(tmp_path / "figures"),
        "figures.with_sam": str(runs / "ours" / "seed-0"),
        "figures.without_sam": str(runs / "without_sam" / "seed-0"),
        "figures.points": 3,
        "figures.map_records": 20,
        "figures.perplexity": 10.0,
    }
    other = override(config, figures | {"features.inputs": ["projected"]})
    said = r"the detector takes features.inputs \[block_2\]: block_2 \(4 wide\), got projected \(8 wide\)"
    with pytest.raises(ValueError, match=said):
        run_figures(other)
    assert run_figures(override(config, figures))["figures"] == ["feature_map.png", "landscape.png"]


@pytest.mark.parametrize("held", [pytest.param("map", marks=pytest.mark.long), pytest.param("stream", marks=pytest.mark.slow)])
def test_workers_train_on_inputs_of_several_widths(ray_session, config: Config, held: str, tmp_path: Path) -> None:
    several = override(config, {"features.inputs": ["projected", "block_2"], "train.precision": "fp64", "features.held": held})
    alone = run_training(several)
    scaling = {"scaling.num_workers": 2, "scaling.cpus_per_worker": 0.5, "train.output": str(tmp_path / "many")}
    assert run_training(override(several, scaling))["test_auroc"] == alone["test_auroc"]
    assert inputs_of(alone["run_dir"]) == {"projected": 8, "block_2": 4}


@pytest.mark.parametrize("stage", [run_training, run_sweep, run_ablation, run_figures])
def test_a_name_that_the_set_lacks_is_refused_before_any_work(config: Config, stage: Callable, tmp_path: Path) -> None:
    figures = {"figures.output": str(tmp_path / "figures")}
    wrong = override(
        config, {"features.inputs": ["block_7"], "ablate.rows": {"ours": {}}, "cluster.address": "local"} | figures
    )
    with pytest.raises(ValueError, match=r"features\.inputs must name features that .* holds, projected, block_2, got block_7"):
        stage(wrong)
    assert not [path for path in tmp_path.iterdir() if path.name != "mlflow.db"]


def test_a_finished_run_of_before_there_were_names_is_still_finished(config: Config, tmp_path: Path) -> None:
    named = override(config, {"features.inputs": ["projected"]})
    summary = run_training(named)
    place = Path(summary["run_dir"]) / "config.yaml"
    before = yaml.safe_load(place.read_text())
    del before["features"]["inputs"]
    place.write_text(yaml.safe_dump(before))
    moment = (Path(summary["run_dir"]) / "metrics.json").stat().st_mtime_ns
    assert run_training(named) == summary
    assert (Path(summary["run_dir"]) / "metrics.json").stat().st_mtime_ns == moment
    with pytest.raises(ValueError, match=r"features\.inputs \(\['projected'\] there, \['block_2'\] now\)"):
        run_training(config)
    described = json.loads((Path(summary["run_dir"]) / "detector" / "detector.json").read_text())
    assert described["inputs"] == {"projected": 8}
