"""What is known of a CLIP model without its weights: open_clip's config of it, and the features of images that it can give.

open_clip, and torch with it, is imported only where it is asked.
"""

import difflib
import json
import os
from collections.abc import Iterable
from typing import Any

from rdd.feature_names import IMAGE_NAMES, PROJECTED, block_of


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
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        close = difflib.get_close_matches(model, open_clip.list_models(), n=5, cutoff=0.3)
        raise ValueError(f"clip.model must be one of open_clip's models, such as {', '.join(close)}; got {model!r}")
    return config


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
    from open_clip.model import CLIPVisionCfg

    config = model_config(model)
    tower = CLIPVisionCfg(**config["vision_cfg"])
    widths = {}
    for name in names:
        block = block_of(name)
        if name == PROJECTED:
            widths[name] = config["embed_dim"]
        elif block is None:
            raise ValueError(f"features of images must be called {IMAGE_NAMES}, got {name!r}")
        elif tower.timm_model_name or not isinstance(tower.layers, int):
            raise ValueError(
                f"clip.blocks must be empty for {model}, whose image tower is no plain vision transformer of open_clip, "
                f"got block {block}"
            )
        elif block > tower.layers:
            raise ValueError(f"clip.blocks must lie in [1, {tower.layers}], the blocks of {model}, got {block}")
        else:
            widths[name] = tower.width
    return widths
