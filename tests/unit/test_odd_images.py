"""Each odd kind of image is decoded as open_clip's own loader does it, to the bit, or rejected for the right reason."""

import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from _odd_images import MAX_PIXELS, Odd, odd_images
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from rdd.data.decode import UnusableImageError, decode_image
from rdd.preprocessing import Preprocessor

CONFIG = {"size": 32, "interpolation": "bicubic", "resize_mode": "shortest"}


@pytest.fixture(scope="module")
def open_clips_loader() -> Callable[[bytes], np.ndarray]:
    steps = image_transform_v2(PreprocessCfg(**CONFIG), is_train=False).transforms[:-2]  # up to the tensor

    def load(data: bytes) -> np.ndarray:
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(data))
            for step in steps:
                image = step(image)
        return np.asarray(image)

    return load


def pixels_or_reason(data: bytes) -> np.ndarray | str:
    try:
        image = decode_image(data, max_pixels=MAX_PIXELS).image
        with warnings.catch_warnings(action="ignore"):  # Pillow's advice on palettes
            return Preprocessor(CONFIG).pixels(image)
    except UnusableImageError as error:
        return error.reason


@pytest.mark.parametrize("odd", odd_images(), ids=lambda odd: odd.name)
def test_it_is_decoded_as_open_clip_does_or_has_its_reason(odd: Odd, open_clips_loader) -> None:
    found = pixels_or_reason(odd.data)
    if odd.reason is not None:
        assert found == odd.reason
    else:
        assert isinstance(found, np.ndarray), found
        np.testing.assert_array_equal(found, open_clips_loader(odd.data))


def test_there_are_enough_kinds_and_no_file_twice() -> None:
    odd = odd_images()
    assert len(odd) >= 40
    assert len({file.data for file in odd}) == len({file.name for file in odd}) == len(odd)
