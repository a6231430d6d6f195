"""Which encoder it is, told from its files without torch: the same that the loaded encoder says of itself."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import open_clip
import pytest
from open_clip.model import CLIPVisionCfg
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from safetensors.torch import save_file

from rdd.clip import ClipEncoder
from rdd.clip_identity import identity_of_files
from rdd.clip_models import image_feature_widths, model_config, preprocessing_of, weights_table
from rdd.config import ClipConfig


@pytest.fixture(scope="module")
def weights(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of both towers and of the image tower alone."""
    folder = tmp_path_factory.mktemp("weights")
    state = open_clip.create_model(tiny_model, load_weights=False).state_dict()
    visual = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    save_file(state, folder / "both.safetensors")
    save_file(visual, folder / "image.safetensors")
    lacking = {name: tensor for name, tensor in visual.items() if name != "visual.proj"}
    save_file(lacking, folder / "lacking.safetensors")
    save_file({name: tensor for name, tensor in visual.items() if "resblocks" not in name}, folder / "shallow.safetensors")
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.mark.parametrize("which", ["both", "image"])
def test_it_is_what_the_loaded_encoder_says(tiny_clip: ClipConfig, weights: dict[str, str], which: str) -> None:
    for normalize in (False, True):
        clip = replace(tiny_clip, pretrained=weights[which], normalize=normalize)
        told = identity_of_files(clip)
        assert told is not None
        assert told == ClipEncoder.from_config(clip).identity
        assert told.has_text == (which == "both")


def test_only_loading_tells_of_other_files(tiny_clip: ClipConfig, weights: dict[str, str]) -> None:
    assert identity_of_files(tiny_clip) is None  # random weights
    for which in ("lacking", "shallow"):
        clip = replace(tiny_clip, pretrained=weights[which])
        assert identity_of_files(clip) is None
        with pytest.raises(ValueError, match="does not hold weights of"):
            ClipEncoder.from_config(clip)
    with pytest.raises(ValueError, match="clip.pretrained names no file"):
        identity_of_files(replace(tiny_clip, pretrained="none.safetensors"))


def test_torch_is_not_imported(tiny_model: str, weights: dict[str, str]) -> None:
    code = f"""
import json, sys
from dataclasses import asdict
from rdd.clip_identity import identity_of_files
from rdd.clip_models import image_feature_widths
from rdd.clip_weights import known_activations
from rdd.config import ClipConfig
told = identity_of_files(ClipConfig(model={tiny_model!r}, pretrained={weights["both"]!r}))
widths = image_feature_widths("ViT-L-14-quickgelu", ["projected", "block_24"])
print(json.dumps([asdict(told), widths, len(known_activations()), "torch" in sys.modules, "safetensors.torch" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    told, widths, activations, *imported = json.loads(done.stdout)
    here = identity_of_files(ClipConfig(model=tiny_model, pretrained=weights["both"]))
    assert here is not None
    assert told == json.loads(json.dumps(asdict(here)))
    assert widths == {"projected": 768, "block_24": 1024}
    assert activations > 10
    assert imported == [False, False]


def test_what_is_read_without_open_clip_is_what_it_says() -> None:
    assert weights_table() is sys.modules["open_clip.pretrained"]
    for model in open_clip.list_models():
        assert model_config(model) == open_clip.get_model_config(model)
    for model, tag in [*open_clip.list_pretrained(), ("ViT-B-32", "some/file.safetensors")]:
        base = asdict(PreprocessCfg()) | {"size": model_config(model)["vision_cfg"]["image_size"]}
        assert preprocessing_of(model, tag) == merge_preprocess_dict(base, open_clip.get_pretrained_cfg(model, tag))
    assert preprocessing_of("ViT-B-16-SigLIP", "webli")["resize_mode"] == "squash"
    defaults = CLIPVisionCfg()
    assert (defaults.layers, defaults.width, defaults.timm_model_name) == (12, 768, None)
    plain = [
        name for name in open_clip.list_models() if "timm_model_name" not in open_clip.get_model_config(name)["vision_cfg"]
    ]
    for model in plain:
        tower = CLIPVisionCfg(**open_clip.get_model_config(model)["vision_cfg"])
        if isinstance(tower.layers, int):
            last = f"block_{tower.layers}"
            assert image_feature_widths(model, [last]) == {last: tower.width}


def test_the_table_without_open_clip_is_the_same(tmp_path: Path) -> None:
    code = """
import json, sys
from rdd.clip_models import weights_table
table = weights_table()
assert "open_clip" not in sys.modules and "torch" not in sys.modules
print(json.dumps([[model, tag, table.get_pretrained_cfg(model, tag)] for model, tag in table.list_pretrained()]))
import safetensors.torch  # can still be imported afterwards
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    there = [[model, tag, open_clip.get_pretrained_cfg(model, tag)] for model, tag in open_clip.list_pretrained()]
    assert json.loads(done.stdout) == json.loads(json.dumps(there))
