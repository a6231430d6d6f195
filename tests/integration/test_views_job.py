"""Views from the images to the detector: embedded on Ray, trained on from a map and from a stream, scored clean."""

from pathlib import Path

import numpy as np
import pytest
from _small import base_config

from rdd import storage
from rdd.config.parse import override
from rdd.embedding.resume import read_table
from rdd.embedding.verify import verify
from rdd.features import FeatureTable
from rdd.on_ray.embed import run_embedding
from rdd.on_ray.train import run_training
from rdd.runs.directory import RunDirectory

pytestmark = pytest.mark.timeout(600)


def column(place: Path, name: str) -> dict[str, np.ndarray]:
    tables = [read_table(file.path, ["record_id", name]) for file in storage.list_files(f"{place}/data")]
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["record_id"]: np.frombuffer(row[name], dtype="<f2").astype(float) for row in rows}


@pytest.mark.slow
def test_views_are_embedded_and_trained_on(ray_session, sample_set: Path, tiny_model: str, tmp_path: Path) -> None:
    values = {
        "records.path": f"{sample_set}/records",
        "records.real_images": f"{sample_set}/real_images",
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "embed.text": False,
        "embed.views": 2,
        "embed.view_degrade": ["noise 0.1 to 0.3", "jpeg 30 to 90"],
        "embed.output": str(tmp_path / "features"),
        "features.path": str(tmp_path / "features"),
        "features.views": 2,
        "loss.consistency": 1.0,
        "train.epochs": 3,
        "train.precision": "fp64",
        "tracking.enabled": False,
    }
    config = override(base_config(tmp_path / "features", tmp_path), values)
    embedded = run_embedding(config)
    assert verify(config)["whole"]
    assert run_embedding(config) == embedded
    with pytest.raises(ValueError, match=r"embed.views \(2 there, 1 now\)"):
        run_embedding(override(config, {"embed.views": 1}))
    copies = {"embed.degrade": config.embed.view_degrade, "embed.degrade_seed": 2, "embed.views": 0}
    run_embedding(override(config, copies | {"embed.output": str(tmp_path / "copies")}))
    views, same = column(tmp_path / "features", "projected_view_2"), column(tmp_path / "copies", "projected")
    assert max(np.abs(views[name] - same[name]).max() for name in same) < 2e-3

    trained = run_training(config)
    history = RunDirectory(trained["run_dir"]).history()
    assert [epoch["train/loss_consistency"] > 0 for epoch in history] == [True] * 3
    two = {"scaling.num_workers": 2, "scaling.cpus_per_worker": 0.5, "train.output": str(tmp_path / "two")}
    assert run_training(override(config, two))["test_auroc"] == trained["test_auroc"]
    streamed = override(config, {"features.held": "stream", "train.output": str(tmp_path / "streamed")})
    assert run_training(streamed)["best_epoch"] >= 1
    detector = storage.read_json(f"{trained['run_dir']}/detector/detector.json", {}, way_out="")
    assert list(detector["inputs"]) == ["projected"]
    assert FeatureTable.load(config.features.path).views == 0
