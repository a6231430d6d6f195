"""What MLflow shows of stages that are at work on a real Ray session."""

import logging
from pathlib import Path

import pytest
from _small import base_config
from mlflow import MlflowClient
from PIL import Image

from rdd.config.parse import override
from rdd.on_ray.embed import run_embedding
from rdd.on_ray.train import run_training
from rdd.runs.evaluate import run_evaluation
from rdd.tracking import course

pytestmark = pytest.mark.timeout(180)


@pytest.mark.slow
def test_an_embedding_logs_its_course_and_says_first_where_it_is_seen(
    ray_session, features: Path, tiny_model: str, tmp_path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(course, "PROGRESS_S", 0.1)
    caplog.set_level(logging.INFO, logger="rdd")
    folder = tmp_path / "images"
    for kind in ("real", "fake/sd"):
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (32, 32), (number, len(kind), 9)).save(folder / kind / f"{number}.png")
    (folder / "real" / "broken.png").write_bytes(b"no picture")
    values = {
        "records.kind": "folder",
        "records.path": str(folder),
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "embed.text": False,
        "embed.threads_per_worker": 1,
        "embed.output": str(tmp_path / "features"),
        "embed.max_quarantined_share": 0.5,
    }
    config = override(base_config(features, tmp_path), values)
    summary = run_embedding(config)
    client = MlflowClient(config.tracking.uri)
    (run,) = client.search_runs(["1"])
    metrics = run.data.metrics
    assert metrics["progress/quarantined"] == metrics["records_quarantined"] == summary["records_quarantined"] == 1
    assert 0 < metrics["system/busy_share"] <= 1
    assert metrics["system/driver_peak_gib"] >= metrics["system/driver_gib"] > 0
    assert "system/gpu_peak_gib" not in metrics  # without a GPU
    assert metrics["time/stage_s"] > 0
    rate = client.get_metric_history(run.info.run_id, "time/records_per_s")
    assert len(rate) > 1
    assert max(point.step for point in rate) <= summary["records_in"]
    (mean,) = client.get_metric_history(run.info.run_id, "time/mean_records_per_s")
    assert (mean.step, mean.value > 0) == (summary["records_in"], True)
    link = f"this run in MLflow: http://127.0.0.1:5000/#/experiments/1/runs/{run.info.run_id}"
    assert caplog.text.index(link) < caplog.text.index("records to embed")
    assert "dashboard" not in caplog.text  # a local Ray has none


def test_training_and_evaluation_log_their_use(features: Path, tmp_path: Path) -> None:
    config = override(base_config(features, tmp_path), {"train.epochs": 3})
    run_training(config)
    run_evaluation(override(config, {"evaluate.run": config.train.output, "evaluate.output": str(tmp_path / "evaluated")}))
    client = MlflowClient(config.tracking.uri)
    evaluated, trained = client.search_runs(["1"])
    shares = client.get_metric_history(trained.info.run_id, "system/busy_share")
    assert [point.step for point in shares] == [1, 2, 3]
    assert all(0 < point.value <= 1 for point in shares)
    assert {"time/samples_per_s", "time/stage_s", "system/driver_peak_gib"} <= trained.data.metrics.keys()
    assert {"time/mean_images_per_s", "time/stage_s", "system/driver_peak_gib"} <= evaluated.data.metrics.keys()
