"""The leak audit as a job and beside a training, on features that hold what embedding notes of each file."""

import json
import logging
from pathlib import Path

import pyarrow as pa
import pytest
from _small import base_config, write_small_features
from mlflow import MlflowClient

import rdd.runs.audit
from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.evaluation.audit import audit
from rdd.on_ray.audit import run_audit
from rdd.on_ray.train import run_training
from rdd.runs.audit import audit_training
from rdd.tracking.tracker import NullTracker

pytestmark = pytest.mark.timeout(180)

RED = ["width", "aspect", "square", "pixels"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Of a set in which the real images alone are not square."""
    folder = write_small_features(tmp_path / "features")
    place = str(folder / "data" / "a.parquet")
    table = storage.read_table(place, way_out="")
    for name, values in {
        "widths": [[640, 512, 512]] * 100,
        "heights": [[512] * 3] * 100,
        "formats": [["JPEG"] * 3] * 100,
        "content_hashes": [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(100)],
        "caption_original": [f"a dog number {i}" for i in range(100)],
        "caption_positive": [f"a dog number {i}, masterpiece" for i in range(100)],
    }.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    storage.write_table(place, table)
    return override(base_config(folder, tmp_path), {"audit.output": str(tmp_path / "audited"), "audit.resamples": 100})


def test_the_job_names_the_red_leaks_and_logs_them(config: Config, tmp_path: Path) -> None:
    summary = run_audit(config)
    assert summary["red"] == [*RED, "text_words_official"]
    assert summary["auroc"]["text_words"] == pytest.approx(0.5)
    assert (summary["images"], summary["records"], summary["same_files_across_splits"]) == (300, 100, 0)
    kept = json.loads(Path(summary["output"], "audit.json").read_text())
    assert kept["properties"]["square"]["interval"][1] == 1
    assert "| square | 1.000 |" in Path(summary["output"], "audit.md").read_text()
    client = MlflowClient(config.tracking.uri)
    (run,) = client.search_runs(["1"])
    assert run.data.tags["rdd.red_leaks"] == ", ".join(summary["red"])
    assert run.data.metrics["audit/square_auroc"] == 1
    assert run.data.metrics["audit/square_auroc_low"] == pytest.approx(kept["properties"]["square"]["interval"][0])
    assert {file.path for file in client.list_artifacts(run.info.run_id, "audit")} == {"audit/audit.json", "audit/audit.md"}
    assert run_audit(config) == summary  # finished, it says what there is
    storage.delete_directory(str(tmp_path / "features"))
    assert run_audit(config) == summary


def test_other_features_in_the_same_place_are_audited_anew(config: Config, tmp_path: Path) -> None:
    run_audit(config)
    write_small_features(tmp_path / "features")
    assert run_audit(config)["red"] == []


def test_a_training_warns_of_red_leaks_and_logs_them(config: Config, caplog) -> None:
    caplog.set_level(logging.INFO, logger="rdd")
    config = override(config, {"train.epochs": 1})
    summary = run_training(config)
    assert "told apart by width 1.000, aspect 1.000, square 1.000, pixels 1.000 (AUC of each alone)" in caplog.text
    assert "text_mode official" not in caplog.text
    (run,) = MlflowClient(config.tracking.uri).search_runs(["1"])
    assert run.data.metrics["audit/red_leaks"] == 5
    assert run.data.tags["rdd.red_leaks"].startswith("width, ")
    assert json.loads(Path(summary["run_dir"], "audit", "audit.json").read_text())["red"] == [*RED, "text_words_official"]


def test_the_folds_of_a_cross_validation_are_audited_once_and_each_has_the_audit(config: Config, caplog, monkeypatch) -> None:
    caplog.set_level(logging.WARNING, logger="rdd")
    asked: list[int] = []
    monkeypatch.setattr(rdd.runs.audit, "audit", lambda *given: asked.append(1) or audit(*given))
    folds = {"train.cross_validate": True, "features.split": "folds", "features.num_folds": 2, "train.epochs": 1}
    summary = run_training(override(config, folds))
    assert len(asked) == len([one for one in caplog.records if "told apart by width" in one.message]) == 1
    runs = MlflowClient(config.tracking.uri).search_runs(["1"])
    assert [run.data.metrics["audit/square_auroc"] for run in runs] == [1.0, 1.0]
    first, second = (Path(summary["run_dir"], f"fold-{fold}", "audit", "audit.json").read_text() for fold in range(2))
    assert first == second


def test_the_official_text_mode_is_warned_of_with_the_auc_of_text_alone_and_once(
    config: Config, tmp_path: Path, caplog
) -> None:
    caplog.set_level(logging.WARNING, logger="rdd")
    audit_training(config, str(tmp_path / "run"), "official", NullTracker())
    (line,) = [record.message for record in caplog.records if "features.text_mode official" in record.message]
    assert "with AUC 1.000" in line
    caplog.clear()
    audit_training(config, str(tmp_path / "run"), "official", NullTracker())  # a run that goes on
    assert not caplog.records
