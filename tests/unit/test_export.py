"""Exported files give the detector's own logits, say how to use them, and are refused where they do not."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from _small_detector import BANDS
from _tiny_clip import TINY
from PIL import Image

from rdd.calibration import Calibration
from rdd.clip import ClipEncoder
from rdd.config import Config
from rdd.config.parse import override
from rdd.detector import Detector
from rdd.export import export, files
from rdd.export.export import export_files
from rdd.export.modules import PixelsToLogits, folded_head
from rdd.model import DetectorHead
from rdd.runs.export import run_export

ONE, TWO = {"projected": 32}, {"block_1": 32, "projected": 32}
HEADS: dict[str, tuple[dict[str, Any], dict[str, int], str, bool]] = {
    "linear": ({"layers": 0, "standardize": True}, ONE, "none", False),
    "mlp": ({"layers": 2, "activation": "leaky_relu"}, ONE, "none", False),
    "mlp standardised, of two inputs": ({"layers": 1, "standardize": True}, TWO, "none", False),
    "blocks standardised": ({"layers": 1, "standardize": True, "kind": "blocks", "projection": 8}, TWO, "none", False),
    "blocks and text": (
        {"layers": 0, "standardize": True, "kind": "blocks", "projection": 8, "text_dropout": 0.3},
        TWO,
        "shared",
        False,
    ),
    "text left out": ({"layers": 1, "standardize": True, "text_dropout": 0.3}, ONE, "shared", True),
}


def detector_of(encoder: ClipEncoder, kind: str = "linear") -> Detector:
    """A detector whose weights, moments and running statistics are as odd as training could make them."""
    settings, inputs, text_mode, _ = HEADS[kind]
    text = 32 if text_mode != "none" else 0
    config = {"in_features": sum(inputs.values()) + text, "hidden": 24, "dropout": 0.1, "activation": "relu"} | settings
    torch.manual_seed(0)
    head = DetectorHead(**config, text_features=text, input_widths=list(inputs.values())).eval()
    for name, tensor in head.state_dict().items():
        if name.endswith(("running_var", "deviation")):
            tensor.uniform_(0.3, 2.0)
        elif tensor.is_floating_point():
            tensor.add_(0.3 * torch.randn(tensor.shape))
    calibration = Calibration(threshold=0.0, false_positive_rate=0.05, slope=2.0, offset=-0.3, prior=0.5, bands=BANDS)
    return Detector(
        head=head,
        head_config=config,
        inputs=inputs,
        encoder_identity=asdict(encoder.identity),
        text_mode=text_mode,  # type: ignore[arg-type]
        calibration=calibration,
    )


@pytest.fixture(scope="module")
def encoder(tiny_model: str) -> ClipEncoder:
    return ClipEncoder(tiny_model, "random")


@pytest.mark.parametrize("kind", HEADS)
def test_the_files_of_every_kind_of_head_give_its_logits(encoder: ClipEncoder, kind: str, tmp_path: Path) -> None:
    detector, without_text = detector_of(encoder, kind), HEADS[kind][3]
    head = folded_head(detector, without_text=without_text)
    made = export_files(detector, head, encoder, ["head.onnx", "head.pt2"], tmp_path, tolerance=1e-5)
    assert list(made) == ["head.onnx", "head.pt2"]
    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"))
    text_width = 32 if detector.text_mode != "none" and not without_text else 0
    assert [one.name for one in session.get_inputs()] == ["features", "text_features"][: 2 if text_width else 1]
    for number in (1, 3, 17):
        image, text = 3 * torch.randn(number, sum(detector.inputs.values())), torch.randn(number, text_width)
        inputs = {"features": image.numpy()} | ({"text_features": text.numpy()} if text_width else {})
        expected = detector.logits(torch.cat([image, text], dim=1))
        np.testing.assert_allclose(session.run(["logits"], inputs)[0], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(files.run_program(tmp_path / "head.pt2")(inputs), expected, rtol=1e-5, atol=1e-5)
    kept = {"blocks standardised": "kept", "blocks and text": "kept", "mlp": "none"}
    assert head.standardisation == kept.get(kind, "folded")
    assert sum(isinstance(module, torch.nn.BatchNorm1d) for module in head.modules()) == 0
    assert str(Path.cwd()).encode() not in (tmp_path / "head.onnx").read_bytes()


def config_of(detector: Detector, tmp_path: Path, **settings: Any) -> Config:
    detector.save(str(tmp_path / "detector"))
    places = {"detector": str(tmp_path / "detector"), "output": str(tmp_path / "out")}
    return override(Config(), {f"export.{name}": value for name, value in (places | settings).items()} | UNTRACKED)


UNTRACKED = {"tracking.enabled": False}


def test_a_verdict_needs_nothing_but_the_exported_directory(encoder: ClipEncoder, tmp_path: Path) -> None:
    detector = detector_of(encoder)
    summary = run_export(config_of(detector, tmp_path))
    assert run_export(config_of(detector, tmp_path)) == summary
    assert max(summary["largest_difference"].values()) < 1e-5
    pictures = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (50, 40, 3), dtype=np.uint8)) for n in range(17)]

    described = json.loads((tmp_path / "out" / "export.json").read_text())
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "detector.onnx"))
    size, bands = described["preprocessing"]["size"], described["bands"]
    side = size if isinstance(size, int) else size[0]
    pixels = []
    for picture in pictures:
        picture = picture.resize((side, int(side * 50 / 40)), Image.Resampling.BICUBIC)
        top = round((picture.height - side) / 2)
        pixels.append(np.asarray(picture.crop((0, top, side, top + side)).convert("RGB")))
    logits = session.run(["logits"], {"pixels": np.stack(pixels)})[0]

    detector.use(encoder)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), detector.score(pictures), atol=1e-5)
    verdicts = np.where(
        logits >= bands["likely_generated_from"], "generated", np.where(logits <= bands["likely_real_to"], "real", "uncertain")
    )
    expected = detector.logits(detector.features(pictures))
    assert ((verdicts == "generated") == BANDS.likely_generated(expected)).all()
    assert ((verdicts == "real") == BANDS.likely_real(expected)).all()
    assert described["model_version"] == detector.version
    assert described["files"]["detector.onnx"]["bytes"] == (tmp_path / "out" / "detector.onnx").stat().st_size


def test_the_tower_ends_with_the_last_block_and_takes_text_features_beside(tmp_path: Path) -> None:
    deeper = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "layers": 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": deeper}))
    encoder = ClipEncoder(f"local-dir:{tmp_path}", "random", normalize=True)
    detector = detector_of(encoder, "text left out")
    detector.inputs = {"block_2": 32}
    module = PixelsToLogits(encoder, ["block_2"], folded_head(detector))
    assert (len(module.visual.transformer.resblocks), len(encoder.visual.transformer.resblocks)) == (2, 3)
    made = export_files(detector, folded_head(detector), encoder, ["detector.onnx"], tmp_path, tolerance=1e-5)
    session = onnxruntime.InferenceSession(str(tmp_path / "detector.onnx"))
    assert [(one.name, one.type) for one in session.get_inputs()] == [
        ("pixels", "tensor(uint8)"),
        ("text_features", "tensor(float)"),
    ]
    assert made["detector.onnx"]["largest_difference"] < 1e-5


def test_a_file_that_gives_other_logits_is_refused(
    encoder: ClipEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_numbers = (files.write_onnx, lambda path: lambda inputs: np.full(len(inputs["features"]), np.nan))
    monkeypatch.setitem(export._KINDS, ".onnx", no_numbers)
    config = config_of(detector_of(encoder), tmp_path, files=["head.onnx"])
    with pytest.raises(RuntimeError, match=r"head\.onnx must give the detector's logits .* got a largest difference of nan"):
        run_export(config)
    assert not (tmp_path / "out" / "export.json").exists()
    monkeypatch.undo()
    run_export(override(config, {"export.tolerance": 1e-3}))
    assert (tmp_path / "out" / "export.json").exists()


def test_what_can_not_be_exported_is_a_sentence(encoder: ClipEncoder, tmp_path: Path) -> None:
    detector = detector_of(encoder)
    with pytest.raises(ValueError, match="no file of weights at nowhere"):
        run_export(config_of(detector, tmp_path, weights="nowhere"))
    with pytest.raises(ValueError, match="export.without_text must be false .* this one looks at images alone"):
        run_export(config_of(detector, tmp_path, without_text=True))
    with pytest.raises(ValueError, match=r"export.files must be some of head.onnx, .* got \['head.tflite'\]"):
        config_of(detector, tmp_path, files=["head.tflite"])
    detector.encoder_identity = asdict(replace(encoder.identity, weights_sha256="0" * 64))
    with pytest.raises(ValueError, match="trained on another encoder: weights_sha256"):
        run_export(config_of(detector, tmp_path))


def test_the_directory_of_another_export_is_refused(encoder: ClipEncoder, tmp_path: Path) -> None:
    detector = detector_of(encoder)
    run_export(config_of(detector, tmp_path, files=["head.pt2"]))
    with pytest.raises(ValueError, match=r"export\.files"):
        run_export(config_of(detector, tmp_path, files=["head.onnx"]))
    with pytest.raises(ValueError, match=r"export\.output must be another directory, since .* holds the export of "):
        run_export(config_of(detector_of(encoder, "mlp"), tmp_path, files=["head.pt2"]))
