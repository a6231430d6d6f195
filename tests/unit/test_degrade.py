"""Degraded copies: what a list says, what the transforms do, and that the draws belong to the image alone."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from _features import feature_rows, write_features
from PIL import Image

from rdd import storage
from rdd.config import Config
from rdd.config.degrade import CODE, PRESETS, TRANSFORMS, degradations
from rdd.config.parse import from_yaml, override, to_yaml
from rdd.data import transforms
from rdd.data.degrade import Degrader
from rdd.features.feature_set import FeatureSet


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Smooth shades with a little texture, as a photograph has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    shades = np.stack([x * 255 / width, y * 255 / height, 128 + 64 * np.sin(x / 5)], axis=-1)
    return Image.fromarray((shades + rng.normal(0, 8, shades.shape)).clip(0, 255).astype(np.uint8))


def digest(image: Image.Image) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def degraded(*texts: str, image: Image.Image | None = None, seed: int = 0) -> Image.Image:
    image = image or picture()
    return Degrader(texts, seed=seed)(image, digest(image))


def error(one: Image.Image, other: Image.Image) -> float:
    return float(np.square(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean())


def example(name: str) -> str:
    bounds = TRANSFORMS[name]
    return name if bounds is None else f"{name} {max(bounds.low, min(bounds.high, 32 if bounds.whole else 0.5)):g}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gauss 2", "embed.degrade must name transforms among jpeg, webp, .*ai_genbench, got 'gauss 2'"),
        ("jpeg", "embed.degrade must give jpeg a strength, such as 'jpeg 100', got 'jpeg'"),
        ("jpeg 0", r"give jpeg a strength in \[1, 100\], the lower one first, got 'jpeg 0'"),
        ("jpeg 101", r"in \[1, 100\]"),
        ("jpeg 90 to 30", "the lower one first, got 'jpeg 90 to 30'"),
        ("jpeg 50.5", "give jpeg a whole number"),
        ("blur -0.1", r"give blur a strength in \[0, 20\]"),
        ("blur nan", "be written as"),
        ("blur 1e5", r"in \[0, 20\]"),
        ("noise 0.1 p 1.5", r"have a probability in \[0, 1\]"),
        ("noise 0.1 p", "be written as 'NAME', 'NAME STRENGTH'"),
        ("noise 1.2.3", "be written as"),
        ("grayscale 1", "give grayscale no strength"),
        ("JPEG 50", "be written as"),
        ("", "be written as"),
    ],
)
def test_what_is_no_transform_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        degradations([text])
    assert "\n" not in str(refused.value)


def test_a_list_is_kept_as_it_was_written() -> None:
    with pytest.raises(ValueError, match=r"embed.degrade must give jpeg a strength in \[1, 100\]"):
        override(Config(), {"embed.degrade": ["blur 2", "jpeg 0"]})
    config = override(Config(), {"embed.degrade": ["jpeg 30 to 100 p 0.5", "ai_genbench", "code 2"]})
    assert from_yaml(to_yaml(config)) == config
    assert [step.name for step in degradations(config.embed.degrade)][:3] == ["jpeg", "centre_crop", "grayscale"]


def test_every_name_has_a_transform_and_every_transform_a_name() -> None:
    assert TRANSFORMS.keys() - {"code"} == transforms.BY_NAME.keys()
    assert len(degradations(CODE)) == TRANSFORMS["code"].high == len({step.name for step in degradations(CODE)})


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize("size", [(96, 64), (1, 1), (3, 90)])
def test_every_transform_gives_a_picture_at_both_ends_of_its_bounds(name: str, size: tuple[int, int]) -> None:
    bounds = TRANSFORMS[name]
    texts = [name] if bounds is None else [f"{name} {bounds.low:g}", f"{name} {bounds.high:g}", example(name)]
    for text in texts:
        result = degraded(text, image=picture(*size))
        assert result.mode == "RGB"
        assert min(result.size) >= 1


def test_pictures_of_any_mode_are_degraded_and_an_empty_list_leaves_them_alone() -> None:
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"):
        image = picture().convert("L").convert(mode) if mode in ("I;16", "F") else picture().convert(mode)
        assert Degrader([], seed=0)(image, digest(image)) is image
        assert Degrader(["blur 1"], seed=0)(image, digest(image)).mode == "RGB"


@pytest.mark.parametrize("name", ["jpeg", "webp"])
def test_compression_loses_more_the_lower_its_quality(name: str) -> None:
    errors = [error(picture(), degraded(f"{name} {quality}")) for quality in (95, 75, 50, 30)]
    assert errors == sorted(errors)
    assert 0 < errors[0] < errors[-1]


def test_strengths_are_in_their_units() -> None:
    image = picture()
    assert degraded("scale 0.5").size == (48, 32)
    assert degraded("scale 2").size == (192, 128)
    assert degraded("down_up 0.25").size == image.size
    assert degraded("shorter_side 128").size == (192, 128)
    assert degraded("square 20").size == (20, 20)
    assert degraded("crop 0.5").size == (48, 32)
    assert degraded("crop_pixels 80").size == (80, 80)
    assert degraded("centre_crop 80").size == (80, 64)
    assert degraded("resized_crop 50").size == (50, 50)
    assert error(degraded("centre_square 40"), image.crop((28, 12, 68, 52))) == 0
    assert error(degraded("centre_square 128"), image.crop((16, 0, 80, 64)).resize((128, 128), Image.Resampling.BICUBIC)) == 0
    assert degraded("pad 0.25").size == (144, 96)
    assert degraded("rotate 90").size == (64, 96)
    assert error(degraded("rotate 180"), image.transpose(Image.Transpose.ROTATE_180)) == 0
    assert abs(np.divide(*degraded("aspect 2").size) - 2) < 0.05
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    assert abs(np.asarray(degraded("noise 0.1", image=grey), dtype=float).std() - 25.5) < 0.3
    impulse = np.zeros((41, 41, 3), dtype=np.uint8)
    impulse[20, 20] = 255
    spread = np.asarray(transforms.blur(Image.fromarray(impulse), 2, np.random.default_rng(0)), dtype=float)[..., 0]
    offsets = np.arange(41) - 20
    assert abs(np.sqrt((spread.sum(axis=0) * offsets**2).sum() / spread.sum()) - 2) < 0.15
    assert np.ptp(np.asarray(degraded("grayscale")), axis=2).max() == 0
    assert error(degraded("flip", "flip"), image) == 0
    shuffled, pixels = (sorted(np.asarray(one).reshape(-1, 3).tolist()) for one in (degraded("shuffle 1"), image))
    assert shuffled == pixels
    moved = (np.asarray(degraded("shuffle 0.25")) != np.asarray(image)).any(axis=2).mean()
    assert 0.2 < moved <= 0.25
    assert error(degraded("opacity 0"), Image.new("RGB", image.size, "white")) == 0


def test_a_screenshot_holds_the_picture_and_a_part_of_its_page() -> None:
    image = Image.new("RGB", (100, 80), (200, 30, 30))
    page = degraded("screenshot 1.5", image=image)
    assert 150 <= page.width <= 174
    assert 120 <= page.height <= 146
    red = (np.asarray(page) == (200, 30, 30)).all(axis=2)
    assert red.sum() == 150 * 120
    assert (np.asarray(page)[0] == (222, 225, 230)).all()


def test_draws_depend_on_the_seed_and_the_image_alone() -> None:
    texts = ["jpeg 30 to 100 p 0.5", "noise 0 to 0.1", "crop 0.5 to 1", "code 19"]
    images = [picture(seed=seed) for seed in range(12)]
    degrader = Degrader(texts, seed=3)
    once = [np.asarray(degrader(image, digest(image))) for image in images]
    elsewhere = pickle.loads(pickle.dumps(Degrader(texts, seed=3)))
    again = [np.asarray(elsewhere(image, digest(image))) for image in reversed(images)][::-1]
    assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True))
    other_seed = [np.asarray(Degrader(texts, seed=4)(image, digest(image))) for image in images]
    assert not any(np.array_equal(one, other) for one, other in zip(once, other_seed, strict=True))
    flat = Image.new("RGB", (64, 64), (128, 128, 128))
    noisy = [np.asarray(Degrader(["noise 0.1"], seed=0)(flat, digest(image))) for image in images[:2]]
    assert not np.array_equal(*noisy)


def test_strengths_and_probabilities_are_drawn_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[float]] = {"jpeg": [], "webp": [], "blur": [], "flip": []}
    for name, values in drawn.items():
        keep = lambda image, strength, rng, values=values: values.append(strength) or image  # noqa: E731
        monkeypatch.setitem(transforms.BY_NAME, name, keep)
    degrader = Degrader(["jpeg 30 to 33", "webp 50 or 100", "blur 1 to 3", "flip p 0.25"], seed=0)
    image = picture(8, 8)
    for number in range(1000):
        degrader(image, hashlib.sha256(str(number).encode()).digest())
    shares = [drawn["jpeg"].count(quality) / 1000 for quality in (30, 31, 32, 33)]
    assert np.abs(np.array(shares) - 0.25).max() < 0.05
    assert set(drawn["webp"]) == {50, 100}
    assert abs(drawn["webp"].count(50) / 1000 - 0.5) < 0.06
    assert 1 <= min(drawn["blur"]) < 1.05 < 2.95 < max(drawn["blur"]) <= 3
    assert abs(len(drawn["flip"]) / 1000 - 0.25) < 0.05


def test_codes_composition_draws_each_operation_at_most_once_and_up_to_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    for name in transforms.BY_NAME:
        monkeypatch.setitem(transforms.BY_NAME, name, lambda image, strength, rng, name=name: drawn.append(name) or image)
    counts, order = [], [step.name for step in degradations(CODE)]
    for number in range(300):
        drawn.clear()
        Degrader(["code 3"], seed=0)(picture(8, 8), hashlib.sha256(str(number).encode()).digest())
        counts.append(len(drawn))
        assert drawn == sorted(set(drawn), key=order.index)
    assert {counts.count(number) > 50 for number in range(4)} == {True}
    assert max(counts) == 3


def test_ai_genbenchs_composition_is_spelled_out() -> None:
    steps = degradations(PRESETS["ai_genbench"])
    assert [(step.name, step.low, step.high, step.chance) for step in steps][1:4] == [
        ("grayscale", 0, 0, 0.1),
        ("jpeg", 50, 100, 0.5),
        ("noise", 0.015, 0.075, 0.3),
    ]
    assert degraded("ai_genbench", image=picture(1500, 700)).size in {(1080, 700)} | {(n, n) for n in range(256, 513)}


def test_clean_and_degraded_sets_are_not_joined(tmp_path: Path) -> None:
    rows = feature_rows(10)
    places = [write_features(tmp_path / name, half) for name, half in (("clean", rows[::2]), ("jpeg", rows[1::2]))]
    FeatureSet.open(places)
    note = f"{places[1]}/manifest.json"
    manifest = storage.read_json(note, {}, way_out="")
    manifest.setdefault("config", {})["embed"] = {"degrade": ["jpeg 50"], "degrade_seed": 1}
    storage.write_json(note, manifest)
    with pytest.raises(ValueError, match=r"degraded in one way .* with none and .* with jpeg 50 \(seed 1\)"):
        FeatureSet.open(places)
