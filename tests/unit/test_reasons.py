import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from rdd.clip_weights import TOWER_SHA256
from rdd.data.decode import decode_image
from rdd.serving.encoder_age import encoder_age
from rdd.serving.reasons import flat_share, reasons_of


def photograph(width: int = 300, height: int = 250) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def codes(image: Image.Image, file_format: str = "PNG", **options: Any) -> list[str]:
    written = io.BytesIO()
    image.save(written, file_format, **options)
    found = reasons_of(decode_image(written.getvalue(), max_pixels=10**8), seen=(224, 224))
    assert all(reason.about == "image" and reason.text for reason in found)
    return [reason.code for reason in found]


def test_an_ordinary_photograph_has_no_reason() -> None:
    assert codes(photograph()) == []
    assert codes(photograph(), "JPEG", quality=90) == []


@pytest.mark.parametrize(("size", "small"), [((224, 224), False), ((223, 224), True), ((224, 223), True), ((300, 200), True)])
def test_what_the_encoder_enlarges_is_small(size: tuple[int, int], small: bool) -> None:
    assert codes(photograph(*size)) == (["small"] if small else [])


@pytest.mark.parametrize(("quality", "low"), [(59, True), (60, False)])
def test_a_jpeg_below_the_stated_quality_is_named(quality: int, low: bool) -> None:
    assert codes(photograph(), "JPEG", quality=quality) == (["low_quality"] if low else [])


@pytest.mark.parametrize(("size", "cropped"), [((500, 250), False), ((501, 250), True), ((250, 501), True)])
def test_a_long_picture_of_which_the_encoder_sees_less_than_half(size: tuple[int, int], cropped: bool) -> None:
    assert codes(photograph(*size)) == (["cropped"] if cropped else [])


def test_flat_pictures_and_those_that_say_so_are_like_screenshots() -> None:
    page = Image.new("RGB", (300, 250), "white")
    page.paste(photograph(60, 250), (0, 0))
    assert flat_share(page) == pytest.approx(239 / 299, abs=0.01)
    assert codes(page) == ["screenshot_like"]
    note = PngImagePlugin.PngInfo()
    note.add_text("Comment", "Screenshot")
    assert codes(photograph(), pnginfo=note) == ["screenshot_like"]
    assert flat_share(Image.new("L", (1, 9))) == 0.0


def test_of_an_animation_one_frame_is_seen() -> None:
    frames = [photograph(), photograph().rotate(180)]
    assert codes(frames[0], "GIF", save_all=True, append_images=frames[1:]) == ["animated"]


@pytest.mark.parametrize(
    ("pretrained", "digest", "date"),
    [
        ("openai", "", "January 2021"),
        ("tower.safetensors", TOWER_SHA256, "January 2021"),
        ("laion2b_s32b_b82k", "", "March 2022"),
        ("my_own.safetensors", "", None),
        ("random", "", None),
    ],
)
def test_the_age_of_an_encoder_is_said_where_it_is_known(pretrained: str, digest: str, date: str | None) -> None:
    found = list(encoder_age({"pretrained": pretrained, "weights_sha256": digest}))
    assert [reason.about for reason in found] == ([] if date is None else ["detector"])
    assert all(str(date) in reason.text for reason in found)
