"""Degraded copies on Ray: they do not depend on how the work is cut, and a robustness run that was stopped goes on."""

from pathlib import Path

import numpy as np
import pytest
from _small import base_config

import rdd.on_ray.copies
from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.embedding.resume import read_table
from rdd.on_ray.embed import run_embedding
from rdd.on_ray.robustness import run_robustness
from rdd.on_ray.train import run_training

pytestmark = pytest.mark.timeout(600)

CURVES = {"jpeg": ["jpeg 30 to 90"], "both": ["jpeg 30 to 90", "noise 0.1 p 0.5, grayscale"]}


@pytest.fixture
def config(sample_set: Path, tiny_model: str, tmp_path: Path) -> Config:
    values = {
        "records.path": f"{sample_set}/records",
        "records.real_images": f"{sample_set}/real_images",
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "embed.output": str(tmp_path / "clean"),
        "embed.text": False,
        "train.epochs": 2,
        "evaluate.run": str(tmp_path / "run"),
        "robustness.output": str(tmp_path / "robustness"),
        "robustness.clean": str(tmp_path / "clean"),
        "robustness.curves": CURVES,
        "tracking.enabled": False,
    }
    return override(base_config(tmp_path / "clean", tmp_path), values)


def features_of(place: Path | str) -> np.ndarray:
    """``(records, values)`` in the order of ids."""
    tables = [read_table(file.path, ["record_id", "projected"]) for file in storage.list_files(f"{place}/data")]
    found = {row["record_id"]: row["projected"] for table in tables for row in table.to_pylist()}
    return np.stack([np.frombuffer(found[name], dtype="<f2") for name in sorted(found)]).astype(float)


def test_what_can_not_be_done_is_refused_before_any_work(config: Config) -> None:
    for values, said in (
        ({"robustness.curves": {}}, "robustness.curves must name copies, got none; jobs/configs/robustness.yaml"),
        ({"embed.degrade": ["flip"]}, "embed.degrade must be empty, since robustness.curves names what is embedded"),
        ({"evaluate.run": ""}, "evaluate.run must name the run directory of the detector"),
    ):
        with pytest.raises(ValueError, match=said):
            run_robustness(override(config, values))
    assert not storage.exists(config.robustness.output)


@pytest.mark.slow
def test_copies_are_embedded_one_by_one_and_a_stopped_run_goes_on(
    ray_session, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_embedding(config)
    run_training(config)
    with pytest.raises(ValueError, match="clip.blocks must keep what the detector looks at, projected, got block_1 without"):
        run_robustness(override(config, {"clip.projected": False, "clip.blocks": [1]}))
    asked: list[str] = []

    def stopped(one: Config) -> dict:
        asked.append(one.embed.output)
        if len(asked) == 2:
            raise RuntimeError("stopped")
        return run_embedding(one)

    monkeypatch.setattr(rdd.on_ray.copies, "run_embedding", stopped)
    with pytest.raises(RuntimeError, match="stopped"):
        run_robustness(config)
    first = storage.read_bytes(f"{asked[0]}/manifest.json")
    result = run_robustness(config)
    assert storage.read_bytes(f"{asked[0]}/manifest.json") == first
    assert (result["copies"], result["images_left_out"]) == (2, 0)
    found = storage.read_json(f"{result['output']}/robustness.json", {"copies": dict}, way_out="")
    assert list(found["copies"]) == ["clean", "jpeg 30 to 90", "noise 0.1 p 0.5, grayscale"]
    assert result["worst_copy_auroc"] == min(copy["auroc"] for name, copy in found["copies"].items() if name != "clean")
    assert {"robustness.md", "robustness.png"} <= {file.name for file in Path(result["output"]).iterdir()}
    assert run_robustness(config) == result
    with pytest.raises(ValueError, match="robustness.clean must name features of images that are not degraded"):
        other = {"robustness.clean": asked[0], "robustness.output": str(tmp_path / "other")}
        run_robustness(override(config, other))
    cut = {"embed.records_per_task": 2, "clip.batch_size": 5, "embed.degrade": ["jpeg 30 to 90"]}
    again = override(config, cut | {"embed.output": str(tmp_path / "again")})
    run_embedding(again)
    clean, jpeg, once_more = (features_of(place) for place in (tmp_path / "clean", asked[0], tmp_path / "again"))
    assert np.abs(once_more - jpeg).max() < 2e-3 < np.abs(jpeg - clean).max()
