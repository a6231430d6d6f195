"""Bands are fixed by a training run and reported by an evaluation, which a few labels of a new domain shift, apart."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from _small import base_config, write_small_features
from mlflow import MlflowClient

from rdd.config.parse import override
from rdd.detector import Detector
from rdd.on_ray.train import run_training
from rdd.runs.evaluate import run_evaluation


@pytest.mark.slow
def test_labels_shift_what_depends_on_the_threshold_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="rdd")
    config = override(base_config(write_small_features(tmp_path / "features"), tmp_path), {"evaluate.coverage_levels": [0.8]})
    run_training(config)
    assert "evaluate.band_false_positive_rate 0.01 takes at least 99 validation records with a real image" in caplog.text
    run, plain, labels = Path(config.train.output), tmp_path / "plain", tmp_path / "labels.csv"
    bands = Detector.load(str(run / "detector")).calibration.bands
    assert bands.false_positive_rate == pytest.approx(1 / (bands.real_records + 1))
    asked = override(config, {"evaluate.run": str(run), "evaluate.output": str(plain)})
    run_evaluation(asked)
    rows = pq.read_table(plain / "logits.parquet").to_pylist()
    named = sorted({row["record_id"] for row in rows})[:10]
    few = [row for row in rows if row["record_id"] in named and row["generator"] != "hard"]
    labels.write_text("record_id,generator,label\n" + "".join(f"{r['record_id']},{r['generator']},{r['label']}\n" for r in few))
    moved = tmp_path / "moved"
    request = override(asked, {"evaluate.output": str(moved), "evaluate.shift_labels": str(labels)})
    summary = run_evaluation(request)
    report = json.loads((moved / "metrics.json").read_text())
    shift, counted = report["shift"], [row for row in rows if row["record_id"] not in named]
    assert shift["labels"] == {"real": 10, "generated": 10}
    assert shift["images_left_out"] == 30  # whole records
    assert [row["record_id"] for row in pq.read_table(moved / "logits.parquet").to_pylist()] == [
        r["record_id"] for r in counted
    ]
    logits, real = (np.array([row[name] for row in counted]) for name in ("logit", "label"))
    real = real == 0
    assert report["real_images"] == real.sum()
    assert report["false_positive_rate"] == np.mean(logits[real] >= report["threshold"])
    with_shift = shift["with_shift"]
    assert with_shift["false_positive_rate"] == np.mean(logits[real] >= with_shift["threshold"])
    assert np.sign(report["threshold"] - with_shift["threshold"]) == np.sign(shift["log_odds"])
    width = report["bands"]["likely_generated_from"] - report["bands"]["likely_real_to"]
    assert with_shift["bands"]["likely_generated_from"] - with_shift["bands"]["likely_real_to"] == pytest.approx(width)
    assert shift["without_shift"] == {name: report[name] for name in shift["without_shift"] if not name.startswith("by_")} | {
        name: shift["without_shift"][name] for name in ("by_generator", "by_family")
    }
    assert "auroc" not in with_shift
    assert (summary["balanced_accuracy"], summary["with_shift"]["balanced_accuracy"]) == (
        report["balanced_accuracy"],
        with_shift["balanced_accuracy"],
    )
    assert {path.name for path in (moved / "figures").iterdir()} >= {"reliability.png", "reliability_with_shift.png"}
    logged = MlflowClient(config.tracking.uri).search_runs(["1"])[0].data.metrics
    assert logged["test/balanced_accuracy"] == pytest.approx(report["balanced_accuracy"], rel=1e-5)
    assert logged["test/with_shift/balanced_accuracy"] == pytest.approx(with_shift["balanced_accuracy"], rel=1e-5)
    assert {"test/bands/uncertain_low", "test/coverage_0.8/real_coverage", "test/shift/log_odds_high"} <= logged.keys()
    labels.write_text(labels.read_text().replace("real,0", "real,1", 1))
    with pytest.raises(ValueError, match=r"labels.csv, row 1 must have the label of the set itself for 'r\d+', 0, got 1"):
        run_evaluation(request)  # labels that have changed are read again
