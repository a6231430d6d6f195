"""Sweeps on Ray Tune: what comes out, what fails, what a kill costs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from _small import base_config

from rdd.config import Config
from rdd.config.parse import from_yaml, override, to_yaml
from rdd.on_ray.train import run_training
from rdd.on_ray.tune import _trial, run_sweep
from rdd.runs.sweep import SweepDirectory

pytestmark = pytest.mark.timeout(300)

SPACE = {"loss.alpha": {"uniform": [0.2, 1.0]}, "sam.rho": {"loguniform": [0.005, 0.5]}, "loss.gamma": {"choice": [0.3, 0.7]}}


@pytest.fixture
def config(features: Path, tmp_path: Path) -> Config:
    values = {
        "tune.output": str(tmp_path / "sweep"),
        "tune.space": SPACE,
        "tune.num_trials": 6,
        "train.epochs": 6,
        "scaling.num_workers": 1,
    }
    return override(base_config(features, tmp_path), values)


def trials(config: Config) -> list[dict]:
    return pq.read_table(f"{config.tune.output}/trials.parquet").to_pylist()


@pytest.mark.slow
def test_a_sweep_gives_a_config_that_trains_and_every_trial_to_mlflow(ray_session, config: Config) -> None:
    summary = run_sweep(config)
    assert summary["trials"] == summary["finished"] + summary["stopped"] == 6
    assert summary["stopped"] > 0
    rows = trials(config)
    assert summary["validation_auroc"] == max(row["val/auroc"] for row in rows)
    assert all(0.2 <= row["loss.alpha"] <= 1.0 and row["loss.gamma"] in (0.3, 0.7) for row in rows)
    output = Path(config.tune.output)
    assert {path.name for path in (output / "figures").iterdir()} == {
        "parameters.png",
        "parallel.html",
        "alpha_gamma.png",
        "importance.png",
    }
    page = (output / "figures" / "parallel.html").read_text()
    assert "parcoords" in page
    assert 'src="http' not in page
    assert 'href="../best/report.html"' in page
    kept = [path.parents[1].name for path in output.glob("trials/*/checkpoints/last.pt")]
    assert kept == [summary["best_trial"]]
    best = from_yaml((output / "best.yaml").read_text())
    assert best.loss.alpha == summary["best"]["loss.alpha"]
    trained = run_training(override(best, {"scaling.num_workers": 0}))
    assert trained["validation_auroc"] == summary["validation_auroc"]
    assert Path(summary["best_report"]).exists()
    assert run_sweep(config) == summary  # finished: nothing is done again

    from mlflow import MlflowClient

    client = MlflowClient(config.tracking.uri)
    (parent,) = client.search_runs(["1"], "tags.`rdd.job` = 'tune'")
    children = client.search_runs(["1"], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(children) == 6
    assert {child.info.status for child in children} == {"FINISHED"}
    assert sorted(child.data.tags["rdd.status"] for child in children) == sorted(row["status"] for row in rows)
    for child in children:
        (row,) = [row for row in rows if row["trial"] == child.info.run_name]
        assert child.data.params["loss.alpha"] == str(row["loss.alpha"])
        assert f"alpha {row['loss.alpha']:.4g}" in child.data.params["changes"]
        assert len(client.get_metric_history(child.info.run_id, "val/auroc")) == row["epochs"]


@pytest.mark.long
def test_the_same_seed_draws_the_same_trials_and_another_seed_others(ray_session, config: Config, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        values = {"tune.output": str(tmp_path / name), "tune.seed": seed, "train.epochs": 1, "tune.num_trials": 3}
        own = override(config, values | {"tracking.enabled": False})
        run_sweep(own)
        drawn.append(sorted((row["loss.alpha"], row["sam.rho"], row["loss.gamma"]) for row in trials(own)))
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.slow
@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_other_searches(ray_session, config: Config, search: str) -> None:
    space = {"loss.p": {"choice": [2.0, 3.0]}, "loss.gamma": {"choice": [0.2, 0.5]}}
    values = {"tune.space": space, "tune.search": search, "tune.num_trials": 4, "train.epochs": 2, "tracking.enabled": False}
    summary = run_sweep(override(config, values | {"tune.scheduler": "none"}))
    assert summary["finished"] == 4
    if search == "grid":
        assert sorted((row["loss.p"], row["loss.gamma"]) for row in trials(config)) == [(2, 0.2), (2, 0.5), (3, 0.2), (3, 0.5)]


def test_a_trial_that_fails_is_reported_and_takes_nothing_down(ray_session, config: Config, caplog) -> None:
    # a rate of 1e38 makes weights, and the second loss, infinite
    space = {"optimizer.lr": {"grid": [1e-3, 1e38]}}
    failing = override(config, {"tune.space": space, "tune.search": "grid", "train.epochs": 3, "tune.scheduler": "none"})
    summary = run_sweep(failing)
    assert (summary["finished"], summary["failed"]) == (1, 1)
    assert summary["best"]["optimizer.lr"] == 1e-3
    (failed,) = [row for row in trials(failing) if row["status"] == "failed"]
    assert failed["optimizer.lr"] == 1e38
    assert "not finite" in failed["error"]
    from mlflow import MlflowClient

    statuses = [
        run.info.status for run in MlflowClient(config.tracking.uri).search_runs(["1"], "tags.`rdd.job` = 'tune-trial'")
    ]
    assert sorted(statuses) == ["FAILED", "FINISHED"]


@pytest.mark.slow
def test_all_failing_is_an_error(ray_session, config: Config) -> None:
    space = {"optimizer.lr": {"grid": [1e37, 1e38]}}
    failing = override(config, {"tune.space": space, "tune.search": "grid", "tracking.enabled": False})
    with pytest.raises(RuntimeError, match="all of 2 trials failed, the first with: .*not finite"):
        run_sweep(failing)


@pytest.mark.long
def test_a_trial_of_several_workers_nests_a_trainer(ray_session, config: Config) -> None:
    values = {"scaling.num_workers": 2, "scaling.cpus_per_worker": 0.5, "tune.num_trials": 2, "train.epochs": 2}
    summary = run_sweep(override(config, values | {"tracking.enabled": False, "tune.scheduler": "none"}))
    assert summary["finished"] == 2


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_trains_nothing_twice(config: Config, tmp_path: Path) -> None:
    own = override(config, {"train.epochs": 30, "model.hidden": 256, "tune.scheduler": "none", "cluster.num_cpus": 2})
    (tmp_path / "sweep.yaml").write_text(to_yaml(own))
    words = [sys.executable, "jobs/tune.py", "--config", str(tmp_path / "sweep.yaml")]
    environment = os.environ | {"RAY_ADDRESS": ""}
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    histories = Path(own.tune.output) / "trials"
    deadline = time.monotonic() + 120

    def finished() -> dict[str, float]:
        files = {path.parents[1].name: path for path in histories.glob("*/checkpoints/history.json")}
        return {name: path.stat().st_mtime for name, path in files.items() if len(json.loads(path.read_text())) == 30}

    while len(finished()) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = finished()
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "going on with the sweep" in done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["trials"], summary["finished"], summary["failed"]) == (6, 6, 0)
    assert len(before) >= 2
    assert {name: finished()[name] for name in before} == before
    assert all(row["epochs"] == 30 for row in trials(own))


def test_a_trial_whose_sweep_was_killed_after_its_last_epoch_reports_that_epoch(
    ray_session, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = override(config, {"train.epochs": 2})
    sweep = SweepDirectory(own.tune.output)
    told: list[dict[str, float]] = []
    monkeypatch.setattr("ray.tune.get_context", lambda: SimpleNamespace(get_trial_id=lambda: "abc_00000"))
    monkeypatch.setattr("ray.tune.report", told.append)
    for _ in range(2):
        _trial({"loss.gamma": 0.3}, config=own, sweep=sweep)
    assert [metrics["epoch"] for metrics in told] == [1, 2, 2]
    assert told[1] == told[2]


def test_what_a_sweep_refuses(config: Config, tmp_path: Path) -> None:
    for changes, message in (
        ({"tune.output": ""}, "tune.output must name"),
        ({"features.path": ""}, "features.path must name"),
        ({"scaling.num_workers": 2}, "tune.scheduler must be none when scaling.num_workers is above 1"),
        ({"train.cross_validate": True, "features.split": "folds"}, "train.cross_validate must be false in a sweep"),
        ({"tune.space": {}}, "tune.space must name at least one path"),
        ({"features.path": str(tmp_path)}, "no finished embedding"),
    ):
        with pytest.raises(ValueError, match=message):
            run_sweep(override(config, changes))
    assert not Path(config.tune.output).exists()
    assert yaml.safe_load(Path("jobs/configs/sweep.yaml").read_text())["tune"]["space"].keys() == {
        "loss.alpha",
        "loss.gamma",
        "loss.p",
        "sam.rho",
    }
