import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _small_detector import as_format, detector_of
from PIL import Image
from safetensors.torch import save_file

from rdd.clip import ClipEncoder
from rdd.detector import Detector
from rdd.model import DetectorHead, dropout_mask


def pictures(number: int = 3) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(number)]


def test_saved_and_loaded_it_scores_the_same(tiny_model: str, tmp_path: Path) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder)
    detector.save(str(tmp_path))
    loaded = Detector.load(str(tmp_path), encoder=encoder)
    scores = loaded.score(pictures())
    assert scores.shape == (3,)
    assert ((scores > 0) & (scores < 1)).all()
    expected = torch.sigmoid(detector.head(encoder.encode_images(pictures())).double()).detach().numpy()
    np.testing.assert_allclose(scores, expected)
    assert (loaded.text_mode, loaded.calibration) == ("none", detector.calibration)
    np.testing.assert_allclose(loaded.calibration.probability(np.array([0.5])), 0.5)
    described = json.loads((tmp_path / "detector.json").read_text())
    calibration = {"slope": 2.0, "offset": -1.0, "prior": 0.8, "method": "platt"}
    assert (described["threshold"], described["calibration"]) == (0.25, calibration)


def test_a_detector_of_text_dropout_does_without_captions(tiny_model: str) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder, "shared")
    detector.head_config["text_dropout"] = 0.3
    detector.head, detector.encoder = DetectorHead(**detector.head_config).eval(), encoder
    torch.nn.init.normal_(detector.head.no_text)
    images = encoder.encode_images(pictures())
    filled = torch.cat([images, detector.head.no_text.expand(3, -1)], dim=1)
    np.testing.assert_allclose(detector.score(pictures()), torch.sigmoid(detector.head(filled).double()).detach())
    captioned = detector.score(pictures(), ["a", "b", "c"])
    assert np.abs(captioned - detector.score(pictures())).max() > 1e-4


def test_inputs_are_computed_by_name_in_one_pass(tiny_model: str, tmp_path: Path) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder, "shared")
    detector.inputs = {"block_1": 32, "projected": 32}
    detector.head_config |= {"in_features": 96, "text_dropout": 0.3}
    detector.head = DetectorHead(**detector.head_config, text_features=32).eval()
    torch.nn.init.normal_(detector.head.no_text)
    detector.save(str(tmp_path))
    loaded = Detector.load(str(tmp_path), encoder=encoder)
    assert list(loaded.inputs.items()) == [("block_1", 32), ("projected", 32)]
    by_name, text = encoder.image_features(pictures(), ["projected", "block_1"]), encoder.encode_texts(["a", "b", "c"])[0]
    images = torch.cat([by_name["block_1"], by_name["projected"]], dim=1)
    for texts, features in ((["a", "b", "c"], text), (None, detector.head.no_text.expand(3, -1))):
        expected = torch.sigmoid(detector.head(torch.cat([images, features], dim=1)).double()).detach()
        np.testing.assert_allclose(loaded.score(pictures(), texts), expected)


@pytest.mark.parametrize("text_mode", ["none", "shared"])
def test_a_detector_of_before_inputs_had_names_looks_at_the_projection(tiny_model: str, tmp_path: Path, text_mode: str) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder, text_mode)
    detector.save(str(tmp_path))
    as_format(tmp_path, 2)
    loaded, texts = Detector.load(str(tmp_path), encoder=encoder), None if text_mode == "none" else ["a", "b", "c"]
    detector.encoder = encoder
    assert loaded.inputs == {"projected": 32}
    np.testing.assert_array_equal(loaded.score(pictures(), texts), detector.score(pictures(), texts))


def test_a_detector_of_before_there_were_bands_opens_without_them(tiny_model: str, tmp_path: Path) -> None:
    detector = detector_of(ClipEncoder(tiny_model, "random"))
    detector.save(str(tmp_path))
    as_format(tmp_path, 3)
    loaded = Detector.load(str(tmp_path))
    assert loaded.calibration == replace(detector.calibration, bands=None)
    loaded.save(str(tmp_path))
    assert Detector.load(str(tmp_path)).calibration.bands is None


def test_text_dropout_drops_the_share_it_says_and_learns_the_vector() -> None:
    torch.manual_seed(0)
    head = DetectorHead(8, hidden=4, layers=1, dropout=0.0, text_dropout=0.3)
    seen = []
    head.hidden[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    head(torch.ones(20_000, 8)).square().sum().backward()
    dropped = (seen[0][:, 4:] == 0).all(1)
    assert abs(float(dropped.float().mean()) - 0.3) < 0.02
    assert (seen[0][:, :4] == 1).all()
    assert head.no_text.grad.abs().sum() > 0
    head.eval()
    head(torch.ones(5, 8))
    assert (seen[-1] == 1).all()


def test_a_dropout_mask_drops_its_share_evenly_and_keeps_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    (mask,) = dropout_mask((1, 1001, 999), 0.335, dtype=torch.float64, device=torch.device("cpu"), generator=generator)
    assert mask.shape == (1001, 999)
    assert abs(float(mask.mean()) - 1) < 0.003
    dropped = (mask == 0).double()
    assert abs(float(dropped.mean()) - 0.335) < 0.002
    lanes = dropped.flatten()[:999_900].view(-1, 4).mean(0)  # the four 16-bit lanes of a random word
    assert (lanes - 0.335).abs().max() < 0.004
    lagged = torch.corrcoef(torch.stack([dropped.flatten()[:-1], dropped.flatten()[1:]]))[0, 1]
    assert abs(float(lagged)) < 0.004


def test_text_is_needed_where_it_was_trained_on_and_refused_where_not(tiny_model: str) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    with_text, without = detector_of(encoder, "shared"), detector_of(encoder)
    with_text.encoder = without.encoder = encoder
    assert with_text.score(pictures(), ["a", "b", "c"]).shape == (3,)
    with pytest.raises(ValueError, match="a caption for each of 3 images, got none"):
        with_text.score(pictures())
    with pytest.raises(ValueError, match="got 1"):
        with_text.score(pictures(), ["a"])
    with pytest.raises(ValueError, match="looks at images alone"):
        without.score(pictures(), ["a", "b", "c"])


def test_another_encoder_is_refused_and_none_is_said(tiny_model: str, tmp_path: Path) -> None:
    detector_of(ClipEncoder(tiny_model, "random")).save(str(tmp_path))
    with pytest.raises(ValueError, match="trained on another encoder: weights_sha256"):
        Detector.load(str(tmp_path), encoder=ClipEncoder(tiny_model, "random", seed=1))
    with pytest.raises(ValueError, match="normalized False there, True given"):
        Detector.load(str(tmp_path), encoder=ClipEncoder(tiny_model, "random", normalize=True))
    with pytest.raises(RuntimeError, match=r"can not be scored without the encoder .*random"):
        Detector.load(str(tmp_path)).score(pictures())


def test_torn_or_absent_files_are_said(tiny_model: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no detector\.json at"):
        Detector.load(str(tmp_path))
    detector_of(ClipEncoder(tiny_model, "random")).save(str(tmp_path))
    weights = tmp_path / "detector.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(RuntimeError, match=r"detector\.json is not a whole detector: parts_sha256 must be"):
        Detector.load(str(tmp_path))
    save_file({"other": torch.zeros(1)}, weights)
    with pytest.raises(RuntimeError, match="parts_sha256 must be that of the weights and settings"):
        Detector.load(str(tmp_path))
    weights.unlink()
    with pytest.raises(RuntimeError, match=r"detector\.safetensors is missing; delete metrics\.json of the run"):
        Detector.load(str(tmp_path))
    (tmp_path / "detector.json").write_text('{"format": 2,')
    with pytest.raises(RuntimeError, match=r"detector\.json is torn or no JSON .*; delete metrics\.json of the run"):
        Detector.load(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("threshold", float("nan"), "threshold must be a finite number, got nan"),
        ("threshold", "0.5", "threshold must be a finite number, got '0.5'"),
        ("threshold", 0.75, "parts_sha256 must be that of the weights and settings"),
        ("false_positive_rate", 2, r"false_positive_rate must lie in \(0, 1\), got 2"),
        ("calibration", "x", "calibration must be a mapping, got 'x'"),
        ("calibration.slope", None, "slope must be a finite number, got None"),
        ("head_config.dropout", 7, r"model.dropout must lie in \[0, 1\), got 7"),
        ("head_config.in_features", "32", "head_config.in_features must be at least 1, got '32'"),
        ("head_config.rounds", 3, "unknown key 'model.rounds'"),
        ("text_mode", "captions", "text_mode must be one of shared, official, none, got 'captions'"),
        ("encoder_identity", [], r"encoder_identity must be a mapping, got \[\]"),
        ("encoder_identity.weights_sha256", "0" * 64, "parts_sha256 must be that of the weights and settings"),
        ("format", 1, "format must be one of 2, 3, 4, 5, got 1"),
        ("bands", {}, "bands must hold what rdd.bands.Bands describes"),
        ("bands.likely_generated_from", 1.25, "parts_sha256 must be that of the weights and settings"),
        ("inputs", {"projected": 16}, "inputs must go with text_mode and head_config.in_features, 32, got"),
        ("inputs", ["projected"], r"inputs must be widths of features of images by name, got \['projected'\]"),
    ],
)
def test_a_field_that_is_not_as_it_was_written_is_named(
    tiny_model: str, tmp_path: Path, path: str, value: object, said: str
) -> None:
    detector_of(ClipEncoder(tiny_model, "random")).save(str(tmp_path))
    place = tmp_path / "detector.json"
    described = json.loads(place.read_text())
    *sections, name = path.split(".")
    target = described[sections[0]] if sections else described
    target[name] = value
    place.write_text(json.dumps(described))
    with pytest.raises(
        RuntimeError, match=rf"detector\.json is not a whole detector: .*{said}.*; delete metrics\.json of the run"
    ):
        Detector.load(str(tmp_path))
