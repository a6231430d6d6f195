"""A picture to the pixels that CLIP sees, as open_clip does it, to the bit, and without importing torch.

Many processes decode pictures for one that holds the encoder, and importing torch and open_clip would cost each of them five
seconds and half a gigabyte. So the two ways of resizing that nearly all models want are written here on Pillow, as torchvision
does them; for the others open_clip's own transforms are imported.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Resampling

_Step = Callable[[Image.Image], Image.Image]


class Preprocessor:
    """The steps on a picture, up to uint8; picklable, and needs no model.

    Args:
        config: open_clip's preprocessing config: size, interpolation, resize_mode and so on.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        size = config["size"]
        self.height, self.width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self._filter = Resampling.BILINEAR if config["interpolation"] == "bilinear" else Resampling.BICUBIC
        self._steps: list[_Step]
        if config["resize_mode"] == "squash":
            self._steps = [self._squashed]
        elif config["resize_mode"] == "shortest" and self.height == self.width:
            self._steps = [self._shortest_side_resized, self._centre]
        else:
            self._steps = _of_open_clip(self.config)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resized and cropped picture, ``(height, width, 3)`` uint8; it keeps its own mode until it is resized."""
        for step in self._steps:
            image = step(image)
        return np.asarray(image.convert("RGB"))

    def _squashed(self, image: Image.Image) -> Image.Image:
        return self._resized(image, self.width, self.height)

    def _shortest_side_resized(self, image: Image.Image) -> Image.Image:
        width, height = image.size
        longer = int(self.height * max(width, height) / min(width, height))
        return self._resized(image, *((self.height, longer) if width <= height else (longer, self.height)))

    def _resized(self, image: Image.Image, width: int, height: int) -> Image.Image:
        return image if image.size == (width, height) else image.resize((width, height), self._filter)

    def _centre(self, image: Image.Image) -> Image.Image:
        left, top = round((image.width - self.width) / 2), round((image.height - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))


def _of_open_clip(config: dict[str, Any]) -> list[_Step]:
    """open_clip's own steps, up to the one that makes a tensor."""
    from open_clip.transform import PreprocessCfg, image_transform_v2  # slow, and few models want it
    from torchvision.transforms import ToTensor

    steps = image_transform_v2(PreprocessCfg(**config), is_train=False).transforms
    return steps[: next(number for number, step in enumerate(steps) if isinstance(step, ToTensor))]
