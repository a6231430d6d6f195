import json

import numpy as np
import open_clip
import pytest
import torch
from _golden import hooked, plain
from PIL import Image
from safetensors.torch import save_file

from rdd import clip_weights
from rdd.clip import ClipEncoder
from rdd.clip_models import image_feature_widths
from rdd.clip_weights import check_tower_for_text
from rdd.config import ClipConfig
from rdd.hashing import sha256_file


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, size, dtype=np.uint8) for size in ((50, 70, 3), (33, 32, 3), (90, 64, 3))]
    return [Image.fromarray(array) for array in arrays] + [
        Image.fromarray(arrays[0]).convert(mode) for mode in ("L", "P", "RGBA")
    ]


def test_preprocessing_is_open_clips_to_the_bit(tiny_model: str) -> None:
    _, preprocess = plain(tiny_model)
    encoder = ClipEncoder(tiny_model, "random")
    for picture in pictures():
        pixels = torch.from_numpy(encoder.preprocessor.pixels(picture).copy())
        assert torch.equal(encoder.scaled(pixels[None])[0], preprocess(picture))


def test_features_are_open_clips(tiny_model: str) -> None:
    model, preprocess = plain(tiny_model)
    encoder = ClipEncoder(tiny_model, "random", seed=0)
    with torch.inference_mode():
        images = model.encode_image(torch.stack([preprocess(picture) for picture in pictures()]))
        texts = model.encode_text(open_clip.get_tokenizer(tiny_model)(["a cat", "two dogs"]))
    torch.testing.assert_close(encoder.encode_images(pictures(), batch_size=4), images)
    torch.testing.assert_close(encoder.encode_texts(["a cat", "two dogs"], batch_size=1)[0], texts)


def test_random_weights_are_those_of_the_seed(tiny_model: str) -> None:
    torch.manual_seed(99)
    first, again, other = (ClipEncoder(tiny_model, "random", seed=seed) for seed in (1, 1, 2))
    assert first.identity == again.identity
    assert first.identity.weights_sha256 != other.identity.weights_sha256
    assert torch.equal(first.encode_images(pictures()), again.encode_images(pictures()))


def test_normalized_features_have_length_one(tiny_model: str) -> None:
    lengths = ClipEncoder(tiny_model, "random", normalize=True).encode_images(pictures()).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(6))


def test_prompts_beyond_77_tokens_are_cut_and_counted(tiny_model: str) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    fits, one_more = " ".join(["cat"] * 75), " ".join(["cat"] * 76)
    features, cut = encoder.encode_texts([fits, one_more, "", one_more + " dog"])
    assert cut.tolist() == [False, True, False, True]
    assert torch.equal(features[1], features[3])


def test_nothing_to_encode_is_no_error(tiny_model: str) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    assert encoder.encode_images([]).shape == (0, 32)
    assert encoder.encode_texts([])[0].shape == (0, 32)


@pytest.fixture
def files(tiny_model: str, tmp_path) -> dict[str, str]:
    """Weights of both towers and of the image tower alone."""
    state = plain(tiny_model)[0].state_dict()
    save_file(state, tmp_path / "both.safetensors")
    save_file({name: tensor for name, tensor in state.items() if name.startswith("visual.")}, tmp_path / "image.safetensors")
    torch.save(state, tmp_path / "both.pt")
    return {name: str(tmp_path / name) for name in ("both.safetensors", "image.safetensors", "both.pt")}


@pytest.mark.parametrize("name", ["both.safetensors", "image.safetensors", "both.pt"])
def test_weights_of_a_file(tiny_model: str, files: dict[str, str], name: str) -> None:
    encoder, random = ClipEncoder(tiny_model, files[name]), ClipEncoder(tiny_model, "random")
    assert torch.equal(encoder.encode_images(pictures()), random.encode_images(pictures()))
    assert encoder.identity.pretrained == name
    assert len(encoder.identity.weights_sha256) == 64
    assert encoder.identity.has_text == (name != "image.safetensors")


def test_an_image_tower_alone_is_refused_for_text(tiny_model: str, files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"image tower alone, so embed\.text must be false"):
        check_tower_for_text(ClipConfig(model=tiny_model, pretrained=files["image.safetensors"]))
    check_tower_for_text(ClipConfig(model=tiny_model, pretrained=files["both.safetensors"]))
    with pytest.raises(RuntimeError, match="image tower alone"):
        ClipEncoder(tiny_model, files["image.safetensors"]).encode_texts(["x"])


def test_the_activation_of_an_unknown_file_is_printed(tiny_model: str, files: dict[str, str], caplog) -> None:
    with caplog.at_level("INFO", logger="rdd"):
        ClipEncoder(tiny_model, files["both.safetensors"])
    assert "is unknown to rdd" in caplog.text
    assert "runs it with GELU" in caplog.text


def test_openais_weights_are_refused_without_quickgelu(tiny_model: str, files: dict[str, str], monkeypatch) -> None:
    with pytest.raises(ValueError, match="use ViT-L-14-quickgelu"):
        ClipEncoder("ViT-L-14", "openai")
    with pytest.raises(ValueError, match="runs with QuickGELU but the weights laion were trained with GELU"):
        clip_weights.check_activation("ViT-L-14-quickgelu", True, "laion", False)
    assert clip_weights.activation_of_tag("ViT-L-14", "laion2b_s32b_b82k") is None
    known = {sha256_file(files["both.safetensors"]): True}
    monkeypatch.setattr(clip_weights, "known_activations", lambda: known)
    with pytest.raises(ValueError, match="trained with QuickGELU"):
        ClipEncoder(tiny_model, files["both.safetensors"])


def test_known_hashes_are_openais_and_the_towers() -> None:
    from rdd.embedding.weights import TOWER_SHA256

    known = clip_weights.known_activations()
    assert known["5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"]  # OpenAI's ViT-B-16.pt
    assert known[TOWER_SHA256]


def test_wrong_models_and_weights_are_refused(tiny_model: str, files: dict[str, str], tmp_path) -> None:
    with pytest.raises(ValueError, match=r"must be one of open_clip's models.*ViT-L-14"):
        ClipEncoder("ViT-L-15", "openai")
    with pytest.raises(ValueError, match="names no open_clip config"):
        ClipEncoder("local-dir:/nowhere", "random")
    with pytest.raises(ValueError, match="names no file"):
        ClipEncoder(tiny_model, str(tmp_path / "absent.safetensors"))
    (tmp_path / "torn.safetensors").write_bytes(open(files["both.safetensors"], "rb").read()[:1000])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        ClipEncoder(tiny_model, str(tmp_path / "torn.safetensors"))
    wider = json.loads(open(tiny_model.removeprefix("local-dir:") + "/open_clip_config.json").read())
    wider["model_cfg"]["vision_cfg"]["width"] = 64
    (tmp_path / "open_clip_config.json").write_text(json.dumps(wider))
    with pytest.raises(ValueError, match="does not hold weights of"):
        ClipEncoder(f"local-dir:{tmp_path}", files["image.safetensors"])


def test_a_pickle_that_is_no_tensor_is_not_loaded(tiny_model: str, tmp_path) -> None:
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"visual.proj": Evil()}))
    with pytest.raises(ValueError, match="does not hold weights"):
        ClipEncoder(tiny_model, str(tmp_path / "evil.pt"))
    assert not (tmp_path / "owned").exists()


def test_cuda_without_a_gpu_is_an_error(tiny_model: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(RuntimeError, match="torch sees no GPU"):
        ClipEncoder(tiny_model, "random", device="cuda")


THREE_BLOCKS = {"image_size": 32, "layers": 3, "width": 48, "patch_size": 8, "head_width": 16}


@pytest.fixture(params=["plain", "quick_gelu", "sequence_first", "final_ln_after_pool"])
def deeper_model(request: pytest.FixtureRequest, tiny_model: str, tmp_path) -> str:
    """Three blocks, in the variants that change what a forward pass does."""
    config = json.loads(open(tiny_model.removeprefix("local-dir:") + "/open_clip_config.json").read())["model_cfg"]
    config["vision_cfg"] = dict(THREE_BLOCKS)
    if request.param == "quick_gelu":
        config["quick_gelu"] = True
    if request.param == "final_ln_after_pool":
        config["vision_cfg"]["final_ln_after_pool"] = True
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return f"local-dir:{tmp_path}"


def assert_to_float16s_rounding(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2**-11, atol=1e-5)


def test_blocks_are_the_class_tokens_of_open_clips_own_pass(deeper_model: str, request: pytest.FixtureRequest) -> None:
    model, preprocess = plain(deeper_model)
    encoder = ClipEncoder(deeper_model, "random", seed=0)
    if "sequence_first" in request.node.name:  # as a model without batch_first runs
        for visual in (model.visual, encoder._tower.visual):
            visual.transformer.batch_first = False
            for block in visual.transformer.resblocks:
                block.attn.batch_first = False
    expected = hooked(model, torch.stack([preprocess(picture) for picture in pictures()]))
    names = ["block_3", "projected", "block_1"]
    found = encoder.image_features(pictures(), names, batch_size=4)
    assert list(found) == names
    for name in names:
        assert_to_float16s_rounding(found[name], expected[name])
    assert torch.equal(found["projected"], encoder.encode_images(pictures(), batch_size=4))
    alone = encoder.image_features(pictures(), ["block_2"])
    assert list(alone) == ["block_2"]
    assert_to_float16s_rounding(alone["block_2"], expected["block_2"])


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
def test_blocks_of_a_real_architecture(name: str) -> None:
    model, preprocess = plain(name)
    encoder = ClipEncoder(name, "random", seed=0)
    few = pictures()[:2]
    expected = hooked(model, torch.stack([preprocess(picture) for picture in few]))
    found = encoder.image_features(few, ["projected", "block_8", "block_12"])
    for feature, values in found.items():
        assert_to_float16s_rounding(values, expected[feature])
    assert found["block_8"].shape == (2, 768)


def test_with_blocks_alone_the_network_stops_after_the_last(deeper_model: str) -> None:
    encoder, ran = ClipEncoder(deeper_model, "random"), []
    for number, block in enumerate(encoder._tower.visual.transformer.resblocks, 1):
        block.register_forward_hook(lambda module, inputs, output, number=number: ran.append(number))
    encoder.image_features(pictures()[:1], ["block_2", "block_1"])
    assert ran == [1, 2]
    ran.clear()
    encoder.image_features(pictures()[:1], ["block_1", "projected"])
    assert ran == [1, 2, 3]


def test_normalized_blocks_have_length_one_and_none_of_nothing_is_no_error(tiny_model: str) -> None:
    encoder = ClipEncoder(tiny_model, "random", normalize=True)
    torch.testing.assert_close(encoder.image_features(pictures(), ["block_1"])["block_1"].norm(dim=1), torch.ones(6))
    assert encoder.image_features([], ["block_1", "projected"])["block_1"].shape == (0, 32)


@pytest.mark.parametrize(
    ("model", "name", "said"),
    [
        ("ViT-L-14", "block_25", r"clip\.blocks must lie in \[1, 24\], the blocks of ViT-L-14, got 25"),
        ("RN50", "block_1", r"clip\.blocks must be empty for RN50, whose image tower is no plain vision transformer"),
        ("ViT-B-16-SigLIP", "block_1", "is no plain vision transformer of open_clip, got block 1"),
        ("ViT-B-16", "block_0", "must be called projected or block_<k>, k counted from 1, got 'block_0'"),
    ],
)
def test_a_block_that_the_model_has_not_is_refused_without_weights(model: str, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        image_feature_widths(model, ["projected", name])
    assert image_feature_widths(model, ["projected"])["projected"] > 0
