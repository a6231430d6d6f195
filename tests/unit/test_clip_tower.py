"""What the options of the image tower do to features: against plain open_clip in float32, in deviations across images."""

import copy
import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from _golden import FLOAT32_ROUNDING, moved, pictures

from rdd.clip import ClipEncoder
from rdd.clip_tower import ImageTower
from rdd.embedding.stored import MAX_ROUNDING

NAMES = ["block_2", "projected"]


@pytest.fixture
def three_blocks(tiny_model: str, tmp_path: Path) -> str:
    config = json.loads((Path(tiny_model.removeprefix("local-dir:")) / "open_clip_config.json").read_text())["model_cfg"]
    config["vision_cfg"] = {"image_size": 32, "layers": 3, "width": 48, "patch_size": 8, "head_width": 16}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    return f"local-dir:{tmp_path}"


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """What torch.compile has traced; it runs as it is, since making code of it takes its time."""
    traced: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        traced.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    return traced


@pytest.mark.parametrize("options", [{}, {"channels_last": True}])
@pytest.mark.parametrize("names", [NAMES, ["block_2"]])
def test_features_in_float32_are_golden(three_blocks: str, names: list[str], options: dict) -> None:
    assert max(moved(three_blocks, names, 32, **options).values()) < FLOAT32_ROUNDING


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU and there is no g++")
def test_compiled_features_are_golden_for_batches_of_any_size(three_blocks: str) -> None:
    found = moved(three_blocks, NAMES, 16, batch_size=5, channels_last=True, compile=True)  # the last batch holds one image
    assert max(found.values()) < FLOAT32_ROUNDING


def test_one_graph_serves_batches_of_all_sizes(three_blocks: str, graphs: list) -> None:
    eager, compiled = (ClipEncoder(three_blocks, "random", compile=option) for option in (False, True))
    compiled.prepare(NAMES)
    assert len(graphs) == 1
    inputs = pictures(9)
    for number in (9, 4, 1, 2, 7):
        expected = eager.image_features(inputs[:number], NAMES)
        found = compiled.image_features(inputs[:number], NAMES)
        for name in NAMES:
            assert found[name].shape == expected[name].shape
            torch.testing.assert_close(found[name], expected[name])
    assert len(graphs) == 1


@pytest.mark.slow
def test_many_encoders_in_a_process_are_compiled_each(tiny_model: str, graphs: list) -> None:
    visual = ClipEncoder(tiny_model, "random")._tower.visual
    for _ in range(9):  # beyond torch.compile's limit for one function, after which it would stop compiling
        ImageTower(copy.deepcopy(visual), compiled=True).prepare(torch.zeros(2, 3, 32, 32), ["projected"])
    assert len(graphs) == 9


def test_the_compiled_tower_stops_after_the_last_block_that_is_asked_for(three_blocks: str, graphs: list) -> None:
    encoder = ClipEncoder(three_blocks, "random", compile=True)
    for param in encoder._tower.visual.transformer.resblocks[2].parameters():
        param.data.fill_(torch.nan)
    found = encoder.image_features(pictures(3), ["block_2", "block_1"])
    assert list(found) == ["block_2", "block_1"]
    assert all(values.isfinite().all() for values in found.values())
    assert encoder.image_features(pictures(3), NAMES)["projected"].isnan().all()


@pytest.mark.slow
def test_no_compiler_is_refused_in_one_sentence(three_blocks: str) -> None:
    encoder = ClipEncoder(three_blocks, "random", compile=True)
    said = r"torch\.compile failed on .*No working C\+\+ compiler.*needs a C\+\+ compiler on a CPU.*set clip\.compile to false"
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nonexistent")}), pytest.raises(RuntimeError, match=said):
        encoder.prepare(["block_3"])
    ClipEncoder(three_blocks, "random").prepare(["block_3"])


def test_bfloat16_moves_features_no_further_than_it_rounds(three_blocks: str) -> None:
    found = moved(three_blocks, NAMES, 32, precision="bf16")
    assert FLOAT32_ROUNDING < min(found.values())
    assert max(found.values()) < 1.5 * MAX_ROUNDING  # 0.09 measured; these random features hardly vary
    identities = [ClipEncoder(three_blocks, "random", precision=precision).identity for precision in ("fp32", "bf16")]
    assert identities[0] == identities[1]
