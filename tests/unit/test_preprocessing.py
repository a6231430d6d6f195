"""The steps on pictures are open_clip's, to the bit, for every way of resizing that it knows."""

import pickle
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from rdd.preprocessing import Preprocessor

SIZES = ((50, 70), (33, 32), (32, 32), (31, 17), (90, 64), (301, 40), (5, 7))
MODES = ("RGB", "L", "P", "RGBA", "1", "CMYK", "LA")


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    made = [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]
    return [picture.convert(mode) for picture in made for mode in MODES]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"resize_mode": "squash", "size": (24, 40)},
        {"resize_mode": "longest", "fill_color": 7},
        {"size": (24, 40)},
        {"size": [32, 32]},
    ],
)
def test_pixels_are_open_clips(changes: dict[str, Any]) -> None:
    config = asdict(PreprocessCfg()) | {"size": 32, "mean": (0.0,) * 3, "std": (1.0,) * 3} | changes
    preprocessor, theirs = Preprocessor(config), image_transform_v2(PreprocessCfg(**config), is_train=False)
    travelled = pickle.loads(pickle.dumps(preprocessor))
    for picture in pictures():
        expected = (theirs(picture) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(preprocessor.pixels(picture), expected, err_msg=f"{picture.mode} {picture.size}")
        np.testing.assert_array_equal(travelled.pixels(picture), expected)


def test_decoding_and_the_driver_of_an_embedding_do_not_import_torch() -> None:
    code = "import sys, rdd.on_ray.embed, rdd.embedding.decoder; sys.exit(bool({'torch', 'open_clip'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
