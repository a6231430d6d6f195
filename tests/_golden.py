"""Golden features: those of plain open_clip in float32 on the CPU, and how far an encoder's are from them."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import open_clip
import torch
from PIL import Image

from rdd.clip import ClipEncoder

FLOAT32_ROUNDING = 1e-4
"""What an option may move a feature in float32, in deviations of a dimension: a hundredth of what float16 moves it, stored."""


def plain(model: str) -> tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]]:
    """open_clip's own model with the random weights of seed 0, and its preprocessing."""
    torch.manual_seed(0)
    network, _, preprocess = open_clip.create_model_and_transforms(model, load_weights=False)
    return network.eval(), preprocess


def hooked(network: torch.nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Features by forward hooks on plain open_clip: after each block, its class token."""
    kept: dict[str, torch.Tensor] = {}
    transformer = network.visual.transformer

    def keep(name: str):
        def hook(module, inputs, output) -> None:
            kept[name] = (output[:, 0] if transformer.batch_first else output[0]).clone()

        return hook

    handles = [block.register_forward_hook(keep(f"block_{k}")) for k, block in enumerate(transformer.resblocks, 1)]
    with torch.inference_mode():
        kept["projected"] = network.encode_image(inputs)
    for handle in handles:
        handle.remove()
    return kept


def pictures(number: int) -> list[Image.Image]:
    """Pictures of many kinds, coarse to fine, so that their features differ."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(number):
        height, width = (int(side) for side in rng.integers(3, 3 + 8 * (1 + i % 5), 2))
        coarse = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        found.append(coarse.resize((60 + 7 * (i % 4), 50 + 9 * (i % 3)), Image.Resampling.BICUBIC))
    return found


def moved(
    model: str, names: Sequence[str], images: int, *, batch_size: int = 5, device: str = "cpu", **options
) -> dict[str, float]:
    """How far an encoder's features are from the golden ones, by name, in the most affected dimension.

    Args:
        model: with random weights.
        names: of the features.
        images: how many.
        batch_size: of a forward pass; the last batch is smaller where it does not divide their number.
        device: of the encoder; the golden features are the CPU's.
        options: of :class:`ClipEncoder`.

    Returns:
        Root mean square of the difference over the deviation, of the dimension in which that is largest.
    """
    expected, encoder = golden(model, images), ClipEncoder(model, "random", device=device, **options)
    found = encoder.image_features(pictures(images), names, batch_size=batch_size)
    return {name: in_deviations(values, expected[name]) for name, values in found.items()}


@functools.cache
def golden(model: str, images: int) -> dict[str, torch.Tensor]:
    """All features of some of :func:`pictures`, by plain open_clip with random weights of seed 0; kept, since it is slow."""
    network, preprocess = plain(model)
    return hooked(network, torch.stack([preprocess(picture) for picture in pictures(images)]))


def in_deviations(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest over dimensions: root mean square of what moved, over the dimension's deviation across images.

    Args:
        found: ``(N, width)``.
        expected: the same features as they should be.
    """
    apart = (found.double() - expected.double()).square().mean(dim=0).sqrt()
    return float((apart / expected.double().std(dim=0, correction=0)).max())
