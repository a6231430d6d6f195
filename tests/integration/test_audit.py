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
from rdd.on_ray.embed import run_embedding
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


@pytest.mark.slow
def test_with_pixels_detector_and_probe_are_tried_on_copies_and_a_stopped_audit_goes_on(
    config: Config, tmp_path: Path, caplog
) -> None:
    caplog.set_level(logging.WARNING, logger="rdd")
    run = run_training(override(config, {"train.epochs": 3}))["run_dir"]
    pixels = {"audit.pixels": True, "evaluate.run": run, "records.path": "somewhere", "clip.model": "tiny"}
    config = override(config, pixels)
    asked: list[tuple[str, list[str]]] = []

    def embed(name: str, degrade: list[str]) -> str:
        asked.append((name, degrade))
        if len(asked) == 2:
            raise RuntimeError("stopped")
        equal = {} if name == "encoded" else {"shifts": (0.0, 0.0, 0.0)}
        return str(write_small_features(tmp_path / "copies" / name, **equal))

    with pytest.raises(RuntimeError, match="stopped"):
        rdd.runs.audit.run_audit(config, embed)
    summary = rdd.runs.audit.run_audit(config, embed)
    assert [name for name, _ in asked[2:]] == ["encoded", "resized", "cropped", "all_three"]
    assert asked[-1][1] == ["centre_square 256", "square 224", "jpeg 75"]
    assert summary["red"] == [*RED, "text_words_official"]
    clean, encoded, resized = (summary["equal"][name] for name in ("clean", "encoded", "resized"))
    assert (encoded["probe_difference"], encoded["detector_difference"]) == (0, 0)
    assert clean["probe_auroc"] > 0.8 > 0.65 > resized["probe_auroc"]
    assert resized["detector_difference_interval"][1] < 0 > resized["probe_difference_interval"][1]
    falls = [one.message for one in caplog.records if "treated alike" in one.message]
    assert [line.split("(")[1].split(")")[0] for line in falls] == ["square 224", "centre_square 256", ", ".join(asked[-1][1])]
    found = MlflowClient(config.tracking.uri).search_runs(["1"], "tags.`rdd.red_leaks` != ''", order_by=["start_time"])
    assert found[-1].data.metrics["audit/resized_probe_auroc_difference_high"] < 0
    page = Path(summary["output"], "audit.md").read_text()
    assert "| resized | square 224 |" in page
    assert "Duplicates across splits" in page
    assert rdd.runs.audit.run_audit(config, embed) == summary
    assert len(asked) == 6
    with pytest.raises(ValueError, match=r"made with another config: audit.pixels \(True there, False now\)"):
        rdd.runs.audit.run_audit(override(config, {"audit.pixels": False}), embed)
    alone = override(config, {"evaluate.run": "", "audit.output": str(tmp_path / "alone")})
    assert "detector_auroc" not in rdd.runs.audit.run_audit(alone, embed)["equal"]["clean"]


def test_copies_of_one_class_or_another_encoder_are_refused_at_the_first(config: Config, tmp_path: Path) -> None:
    pixels = {"audit.pixels": True, "records.path": "somewhere", "tracking.enabled": False}
    config = override(config, pixels)
    with pytest.raises(ValueError, match="section clip must name the encoder .* 'tiny' there and 'ViT-L-14-quickgelu' here"):
        rdd.runs.audit.run_audit(config, lambda name, degrade: pytest.fail("a copy was asked for"))
    config = override(config, {"clip.model": "tiny"})
    folder = write_small_features(tmp_path / "copy")
    manifest = storage.read_json(f"{folder}/manifest.json", {}, way_out="")
    storage.write_json(f"{folder}/manifest.json", manifest | {"encoder": manifest["encoder"] | {"model": "other"}})
    with pytest.raises(ValueError, match="section clip must name the encoder .* got model 'tiny' there and 'other' here"):
        rdd.runs.audit.run_audit(config, lambda name, degrade: str(folder))


@pytest.mark.long
def test_copies_that_make_the_classes_equal_are_embedded_on_ray(
    ray_session, sample_set: Path, tiny_model: str, tmp_path: Path
) -> None:
    values = {
        "records.path": f"{sample_set}/records",
        "records.real_images": f"{sample_set}/real_images",
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "embed.output": str(tmp_path / "clean"),
        "audit.output": str(tmp_path / "audited"),
        "audit.resamples": 100,
        "audit.pixels": True,
        "tracking.enabled": False,
    }
    config = override(base_config(tmp_path / "clean", tmp_path), values)
    run_embedding(config)
    summary = run_audit(config)
    assert list(summary["equal"]) == ["clean", "encoded", "resized", "cropped", "all_three"]
    assert summary["auroc"]["text_features_official"] > 0.6 > summary["auroc"]["text_features"]
    for name, degrade in config.audit.treatments.items():
        manifest = storage.read_json(f"{summary['output']}/features/{name}/manifest.json", {}, way_out="")
        assert manifest["config"]["embed"]["degrade"] == degrade
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


@pytest.mark.slow
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
