"""Copies run beside the forward pass before, and nobody waits for the GPU who need not."""

import numpy as np
import pytest
import torch
from _stream import decoded, stream, values_of

from rdd.clip import ClipEncoder
from rdd.config import ClipConfig

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


def encoder() -> ClipEncoder:
    return ClipEncoder("ViT-B-32", "random", device="cuda")


def test_a_forward_pass_is_launched_and_not_waited_for() -> None:
    clip = encoder()
    pixels = clip.staged(np.random.default_rng(0).integers(0, 255, (1024, 224, 224, 3), dtype=np.uint8))
    clip.launch(pixels, ["projected"]).features()  # sets up what the first pass needs
    running = clip.launch(pixels, ["projected"])
    assert running._event is not None
    assert not running._event.query()  # 9 TFLOP in float32: 0.1 s and more; it was launched in a tenth of that
    assert running.features()["projected"].isfinite().all()


def test_pixels_are_copied_on_a_stream_of_their_own() -> None:
    clip = encoder()
    assert clip._copies is not None
    assert clip._copies != torch.cuda.current_stream()
    pixels = clip.staged(np.zeros((64, 224, 224, 3), dtype=np.uint8))
    assert pixels.is_pinned()
    clip.launch(pixels, ["projected"]).features()  # memory for the copy is there from now on
    torch.cuda._sleep(2_000_000_000)  # cycles in which the stream that computes is held up: about a second
    copied = torch.cuda.Event()
    with clip._copying():
        pixels.to("cuda", non_blocking=True)
        copied.record()
    held_up = torch.cuda.Event()
    held_up.record()
    copied.synchronize()
    assert not held_up.query()  # the copy is there, and what came before it on the other stream is not done


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_two_threads_hand_over_is_what_one_gets(precision: str) -> None:
    config = ClipConfig(model="ViT-B-32", pretrained="random", device="cuda", precision=precision, batch_size=64, blocks=[9])
    tables = decoded(12, 13, 5, 224)  # two forward passes each, so that copies and passes of several tables interleave
    alone, together = stream(config, tables, threads=1), stream(config, tables)
    assert 0 < together.busy <= 1.001
    for name in config.features:
        first, second = (values_of(done.features, name) for done in (alone, together))
        np.testing.assert_allclose(second, first, rtol=2e-3, atol=2e-3 * first.std())
