"""What is known of a CLIP model without its weights: open_clip's config of it, and the features of images that it can give.

open_clip, and torch with it, takes seconds to import, so its files are read without it where that is possible.
"""

import difflib
import importlib
import json
import os
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from rdd.feature_names import IMAGE_NAMES, PROJECTED, block_of

_ALONE = "_open_clip_without_torch"


@cache
def weights_table() -> Any:
    """The module ``open_clip.pretrained``: which weights there are, and what each wants. It knows nothing of torch itself."""
    if "open_clip" in sys.modules:
        return importlib.import_module("open_clip.pretrained")
    package = ModuleType(_ALONE)  # in the place of open_clip, whose own __init__ imports everything
    package.__path__ = [_folder()]
    sys.modules[_ALONE] = package
    hidden = "safetensors.torch" not in sys.modules  # which it would use in downloads, and which imports torch
    if hidden:
        sys.modules["safetensors.torch"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(f"{_ALONE}.pretrained")
    finally:
        if hidden:
            del sys.modules["safetensors.torch"]


def _folder() -> str:
    spec = find_spec("open_clip")
    assert spec is not None, "open_clip_torch is a dependency"
    assert spec.submodule_search_locations is not None
    return spec.submodule_search_locations[0]


def model_config(model: str) -> dict[str, Any]:
    """open_clip's architecture config of a model.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder with an ``open_clip_config.json``.

    Raises:
        ValueError: there is no such model or folder.
    """
    if model.startswith("local-dir:"):
        path = os.path.join(model.removeprefix("local-dir:"), "open_clip_config.json")
        if not os.path.isfile(path):
            raise ValueError(f"clip.model names no open_clip config: {path}")
        with open(path) as file:
            return json.load(file)["model_cfg"]
    path = os.path.join(_folder(), "model_configs", f"{model}.json")
    if os.path.isfile(path):
        with open(path) as file:
            return json.load(file)
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        close = difflib.get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.3)
        raise ValueError(f"clip.model must be one of open_clip's models, such as {', '.join(close)}; got {model!r}")
    return config


def preprocessing_of(model: str, pretrained: str) -> dict[str, Any]:
    """open_clip's config of the inference preprocessing of a model.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder with an ``open_clip_config.json``.
        pretrained: tag, file or 'random'; tags bring their own mean, interpolation and resize mode.
    """
    table = weights_table()
    config = {
        "size": model_config(model)["vision_cfg"]["image_size"],
        "mode": "RGB",
        "mean": table.OPENAI_DATASET_MEAN,
        "std": table.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    }
    own = table.get_pretrained_cfg(model, pretrained)
    return config | {name: value for name, value in own.items() if name in config and value is not None}


def image_feature_widths(model: str, names: Iterable[str]) -> dict[str, int]:
    """Width of each feature of an image, in the order of the names; needs the model's config alone, and no weights.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder with an ``open_clip_config.json``.
        names: ``projected``, ``block_<k>``.

    Raises:
        ValueError: a name is none, the model is unknown, or its image tower has no such block.

    Example:
        >>> image_feature_widths("ViT-B-16", ["projected", "block_9"])
        {'projected': 512, 'block_9': 768}
    """
    config = model_config(model)
    tower = {"layers": 12, "width": 768, "timm_model_name": None} | config["vision_cfg"]  # with open_clip's own defaults
    widths = {}
    for name in names:
        block = block_of(name)
        if name == PROJECTED:
            widths[name] = config["embed_dim"]
        elif block is None:
            raise ValueError(f"features of images must be called {IMAGE_NAMES}, got {name!r}")
        elif tower["timm_model_name"] or not isinstance(tower["layers"], int):
            raise ValueError(
                f"clip.blocks must be empty for {model}, whose image tower is no plain vision transformer of open_clip, "
                f"got block {block}"
            )
        elif block > tower["layers"]:
            raise ValueError(f"clip.blocks must lie in [1, {tower['layers']}], the blocks of {model}, got {block}")
        else:
            widths[name] = tower["width"]
    return widths
