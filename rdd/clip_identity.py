"""Which encoder a config names, told from its files where that is possible: loading it takes torch and seconds."""

import os

from rdd.clip_models import model_config, preprocessing_of
from rdd.clip_weights import RANDOM, checked_weights, image_only, tensor_shapes
from rdd.config import ClipConfig
from rdd.encoder_identity import EncoderIdentity


def described(model: str, pretrained: str, digest: str, *, normalize: bool, has_text: bool) -> EncoderIdentity:
    """The identity of an encoder.

    Args:
        model: open_clip's model name, or ``local-dir:`` and a folder with an ``open_clip_config.json``.
        pretrained: tag, file or 'random'.
        digest: SHA-256 of its weights.
        normalize: whether feature vectors have length 1.
        has_text: whether the weights have a text tower.
    """
    config = model_config(model)
    return EncoderIdentity(
        model=model,
        pretrained=os.path.basename(pretrained),
        weights_sha256=digest,
        embed_dim=config["embed_dim"],
        quick_gelu=bool(config.get("quick_gelu", False)),
        normalized=normalize,
        has_text=has_text,
        preprocessing=preprocessing_of(model, pretrained),
    )


def identity_of_files(clip: ClipConfig) -> EncoderIdentity | None:
    """The identity that the loaded encoder would have; None where only loading tells.

    It is told for weights in safetensors that fit open_clip's own vision transformer by their names and outer shapes.

    Raises:
        ValueError: there is no such file or tag, or they were trained with another activation than the model runs with.
        RuntimeError: the tag's weights are not here and no hub is in reach.
    """
    if clip.pretrained == RANDOM:
        return None
    path, digest = checked_weights(clip.model, clip.pretrained)
    if not path.endswith(".safetensors"):
        return None
    shapes = tensor_shapes(path)
    has_text = not image_only(shapes)
    if not _fits(shapes, clip.model, text=has_text):
        return None
    return described(clip.model, clip.pretrained, digest, normalize=clip.normalize, has_text=has_text)


def _fits(shapes: dict[str, list[int]], model: str, *, text: bool) -> bool:
    """Whether tensors are those of the model's two towers, as far as the first, the last and the number of blocks tell."""
    config = model_config(model)
    vision = {"layers": 12, "width": 768, "patch_size": 16} | config["vision_cfg"]
    size, patch, width = vision["image_size"], vision["patch_size"], vision["width"]
    if not all(isinstance(value, int) for value in (size, patch, width, vision["layers"])):
        return False
    wanted = {
        "visual.conv1.weight": [width, 3, patch, patch],
        "visual.positional_embedding": [(size // patch) ** 2 + 1, width],
        "visual.proj": [width, config["embed_dim"]],
    }
    towers = [("visual.transformer.resblocks.", vision["layers"])]
    if text:
        tower = {"width": 512, "layers": 12, "vocab_size": 49408, "context_length": 77} | config["text_cfg"]
        wanted |= {
            "token_embedding.weight": [tower["vocab_size"], tower["width"]],
            "positional_embedding": [tower["context_length"], tower["width"]],
            "text_projection": [tower["width"], config["embed_dim"]],
        }
        towers.append(("transformer.resblocks.", tower["layers"]))
    numbers = [{name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)} for prefix, _ in towers]
    as_many = all(len(found) == layers for found, (_, layers) in zip(numbers, towers, strict=True))
    return as_many and all(shapes.get(name) == shape for name, shape in wanted.items())
