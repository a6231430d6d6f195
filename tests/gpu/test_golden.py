"""Features on a GPU are those of plain open_clip in float32 on the CPU, to the rounding of their precision."""

from typing import Any

import pytest
import torch
from _golden import FLOAT32_ROUNDING, moved, pictures

from rdd.clip import ClipEncoder
from rdd.embedding.stored import MAX_ROUNDING

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

TOLERANCE = {"fp32": 10 * FLOAT32_ROUNDING, "fp16": MAX_ROUNDING, "bf16": 8 * MAX_ROUNDING}
"""In deviations of the dimension that moves most. Sums come in another order on a GPU; bf16 has three binary digits less than
fp16. The images are few and the weights random, so that features vary little: real ones move less."""

NAMES = ["block_8", "projected"]


@pytest.mark.parametrize("options", [{}, {"channels_last": True}, {"compile": True}, {"channels_last": True, "compile": True}])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_features_are_golden(precision: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.backends.cudnn, "allow_tf32", False
    )  # torch's default for convolutions, which rounds as fp16 does
    found = moved("ViT-B-32-quickgelu", NAMES, 16, device="cuda", precision=precision, **options)
    assert max(found.values()) < TOLERANCE[precision]


def test_prompts_and_images_are_those_of_the_cpu(tiny_model: str) -> None:
    on_cpu, on_gpu = ClipEncoder(tiny_model, "random"), ClipEncoder(tiny_model, "random", device="cuda")
    torch.testing.assert_close(on_gpu.encode_images(pictures(6)), on_cpu.encode_images(pictures(6)), atol=1e-3, rtol=1e-3)
    prompts = ["a cat", "two dogs"]
    torch.testing.assert_close(on_gpu.encode_texts(prompts)[0], on_cpu.encode_texts(prompts)[0], atol=1e-3, rtol=1e-3)


def test_the_encoder_is_the_same_one_on_both(tiny_model: str) -> None:
    on_gpu = [ClipEncoder(tiny_model, "random", device="cuda", precision=precision).identity for precision in TOLERANCE]
    assert {identity.weights_sha256 for identity in on_gpu} == {ClipEncoder(tiny_model, "random").identity.weights_sha256}
