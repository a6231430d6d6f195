"""A detector as an MLflow model: logged once, registered, loaded again, and its digits those of the detector."""

import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from _small_detector import detector_of
from mlflow import MlflowClient
from PIL import Image

from rdd.clip import ClipEncoder
from rdd.config import Config, TrackingConfig
from rdd.config.parse import override
from rdd.config.stages import EVALUATE, TRAIN, check_registers
from rdd.detector import Detector
from rdd.runs.logged_model import log_model
from rdd.serving.mlflow_model import described_model
from rdd.tracking.tracker import check_tracking, tracked


def write_detector(encoder: ClipEncoder, path: Path, **changes: Any) -> Detector:
    detector = replace(detector_of(encoder), **changes)
    detector.save(str(path))
    return detector


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_a_logged_detector_is_loaded_by_its_alias_and_gives_its_own_digits(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow keeps the files of a local store
    encoder = ClipEncoder(tiny_model, "random")
    detector = write_detector(encoder, tmp_path / "run" / "detector")
    config = TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", register="tiny")
    client = MlflowClient(config.uri)

    def log() -> None:
        with tracked(config, job="train", output=str(tmp_path / "run")) as tracker:
            log_model(tracker, config, str(tmp_path / "run" / "detector"))

    check_tracking(config)
    log()
    log()
    (logged,) = client.search_logged_models(["1"])
    version = client.get_model_version_by_alias("tiny", "champion")
    assert (version.source, version.version, version.run_id) == (logged.artifact_location, 1, logged.source_run_id)

    model = mlflow.pyfunc.load_model(version.source)
    assert model.metadata.metadata["model_version"] == detector.version
    assert not list(Path(version.source).rglob("*.pkl"))
    files = [png(seed) for seed in range(3)]
    detector.use(encoder)
    expected = detector.score([Image.open(io.BytesIO(file)) for file in files])
    answers = model.predict(pd.DataFrame({"image": [*files, b"no image"]}, index=[5, 6, 7, 8]))
    np.testing.assert_allclose(answers["score"][:3].astype(float), expected, atol=1e-5)
    assert list(answers.index) == [5, 6, 7, 8]
    assert answers["verdict"].tolist()[3] is None
    assert answers["error"].tolist()[3]["reason"] == "not_an_image"
    assert answers["model_version"].tolist() == [detector.version] * 4
    missing = model.predict(pd.DataFrame({"image": [files[0], None]}))
    assert [error and error["reason"] for error in missing["error"]] == [None, "empty"]
    example = mlflow.models.Model.load(version.source).load_input_example(version.source)
    assert model.predict(example)["error"].tolist() == [None]

    labels = model.predict(pd.DataFrame({"image": files}), params={"format": "huggingface"})
    assert [sum(one["score"] for one in of) for of in labels] == pytest.approx([1.0] * 3)
    probability = {one["label"]: one["score"] for one in labels[0]}["generated"]
    assert probability == pytest.approx(answers["probability"].tolist()[0])
    with pytest.raises(ValueError, match=r"row 1: an image must be readable .* got not_an_image: .* params format"):
        model.predict(pd.DataFrame({"image": [files[0], b"no"]}), params={"format": "huggingface"})
    with pytest.raises(ValueError, match="format must be one of answer, huggingface, got 'csv'"):
        model.predict(pd.DataFrame({"image": files}), params={"format": "csv"})

    write_detector(encoder, tmp_path / "run" / "detector", calibration=replace(detector.calibration, threshold=0.1))
    log()  # the run's detector was made anew
    assert len(client.search_logged_models(["1"])) == 2
    assert client.get_model_version_by_alias("tiny", "champion").version == 2


def test_it_is_loaded_with_the_weights_that_its_detector_names(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rdd.serving.mlflow_model import _load_pyfunc

    identity = asdict(ClipEncoder(tiny_model, "random").identity) | {"pretrained": "there.safetensors"}
    write_detector(ClipEncoder(tiny_model, "random"), tmp_path / "detector", encoder_identity=identity)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="give their file by RDD_WEIGHTS or model_config weights, or fetch them"):
        _load_pyfunc(str(tmp_path / "detector"))
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    monkeypatch.setenv("RDD_WEIGHTS", str(other))
    with pytest.raises(ValueError, match=r"other\.safetensors holds other weights"):
        _load_pyfunc(str(tmp_path / "detector"))
    with pytest.raises(ValueError, match="no file of weights at nowhere"):
        _load_pyfunc(str(tmp_path / "detector"), {"weights": "nowhere"})


def test_what_mlflow_is_told_can_wait_in_a_file_and_names_each_field_of_an_answer(tiny_model: str, tmp_path: Path) -> None:
    described = described_model(write_detector(ClipEncoder(tiny_model, "random"), tmp_path))
    assert json.loads(json.dumps(described)) == described
    signature = described["signature"]
    assert [column["name"] for column in signature["inputs"]] == ["image"]
    outputs = {column["name"]: column for column in signature["outputs"]}
    assert (outputs["score"]["type"], outputs["score"]["required"]) == ("double", False)
    assert outputs["bands"]["properties"]["likely_real_to"] == {"type": "double", "required": True}
    assert outputs["reasons"]["items"]["properties"]["code"]["type"] == "string"


def test_only_one_training_can_register_and_only_where_there_is_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    config = override(Config(), {"tracking.register": "tiny"})
    check_registers(TRAIN, config)
    with pytest.raises(ValueError, match=r"must be empty in jobs/evaluate\.py, got tiny; jobs/train\.py registers"):
        check_registers(EVALUATE, config)
    folds = {"tracking.register": "tiny", "train.cross_validate": True, "features.split": "folds"}
    with pytest.raises(ValueError, match="must be empty when train.cross_validate is true, got tiny"):
        check_registers(TRAIN, override(Config(), folds))
    with pytest.raises(ValueError, match="register must be empty when tracking.enabled is false, got tiny"):
        TrackingConfig(enabled=False, register="tiny")
    for name in ("a/b", "a:b", " a", "it's"):
        with pytest.raises(ValueError, match=r"tracking\.register must be a name without"):
            TrackingConfig(register=name)
    for alias in ("", "latest", "v1", "a b"):
        with pytest.raises(ValueError, match=r"tracking\.register_alias must be letters"):
            TrackingConfig(register_alias=alias)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "ftp://nowhere")
    with pytest.raises(ValueError, match="must be empty where models can not be registered, got tiny; http:"):
        check_tracking(TrackingConfig(uri="http://127.0.0.1:9", register="tiny"))
