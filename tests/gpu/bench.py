"""Figures of one GPU, without Ray and without a network.

How fast it encodes, how much of the time it is at work, and how near a training step comes to its arithmetic. Prints a table
with the card's name and writes JSON. The figures have no bar, since none of them was measured when this was written. What to
install is said in conftest.py.

python tests/gpu/bench.py [--output runs/bench-gpu.json] [--model ViT-L-14-quickgelu] [--only encoder,training]
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import torch
from _golden import moved
from _stream import decoded, stream
from _training import alternated, flops_of_step, waits_of
from measure import Figure
from report import report
from synthetic import write_features
from training_steps import bare_steps, real_steps

from rdd.clip_models import model_config
from rdd.config import ClipConfig

ON_GPU = {
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "fp16 channels_last": {"precision": "fp16", "channels_last": True},
    "fp16 compile": {"precision": "fp16", "compile": True},
    "fp16 channels_last compile": {"precision": "fp16", "channels_last": True, "compile": True},
}
"""The encoder's options, as they are compared on a GPU."""


def encoder_figures(config: ClipConfig, options: Mapping[str, Mapping[str, Any]], *, tables: int) -> Iterator[Figure]:
    """Images a second, share of the time at work, memory, and distance to the golden features, of each set of options.

    Args:
        config: model, device, blocks and images in a forward pass.
        options: by name what is changed in it.
        tables: of one forward pass each.
    """
    side, images = model_config(config.model)["vision_cfg"]["image_size"], 5
    given = decoded(tables, max(1, config.batch_size // images), images, side)
    for name, changes in options.items():
        done = stream(replace(config, **changes), given)
        yield Figure(f"{name}: encoded by one process", done.images_per_s, unit="1/s")
        yield Figure(f"{name}: share of the time in a forward pass", done.busy)
        if done.peak_bytes:
            yield Figure(f"{name}: most memory in use", done.peak_bytes / 2**30, unit="GiB")
        far = moved(config.model, config.features, 16, batch_size=5, device=config.device, **changes)
        for feature, distance in far.items():
            yield Figure(f"{name}: {feature} moved, in deviations", distance)


def training_figures(folder: Path, device: str, *, records: int, hidden: int, number: int, rounds: int = 5) -> Iterator[Figure]:
    """A training step, its features in the device's memory, against two bare passes and against their arithmetic.

    Args:
        folder: for the features.
        device: cpu or cuda.
        records: of five images each.
        hidden: width of the head.
        number: steps of a block.
        rounds: blocks of each side.
    """
    path, place = write_features(folder / "features", records=records, images=5), torch.device(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    ours = real_steps(path, maps=str(folder / "maps"), hidden=hidden, device=place)
    batch = next(ours)
    real, bare = alternated(ours, bare_steps(1536, hidden, device=place), device, number=number, rounds=rounds)
    flops = flops_of_step(1536, hidden, round(batch))
    yield Figure("training: a step with SAM", 1000 * real, unit="ms")
    yield Figure("training: two bare passes over a step", bare / real)
    yield Figure("training: arithmetic of two passes in a step's time", flops / real / 1e12, unit="TFLOP/s")
    yield Figure("training: the same in the time of two bare passes", flops / bare / 1e12, unit="TFLOP/s")
    if device == "cuda":
        yield Figure("training: most memory in use, features and head", torch.cuda.max_memory_allocated() / 2**30, unit="GiB")
        yield Figure("training: times that a step waits for the GPU", waits_of(ours, number=number))


def main() -> None:
    """Measure this machine's GPU, or say that there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/bench-gpu.json", help="JSON file to write")
    parser.add_argument("--model", default="ViT-L-14-quickgelu", help="open_clip's model, with random weights")
    parser.add_argument("--batch-size", type=int, default=256, help="images in a forward pass")
    parser.add_argument("--blocks", type=int, nargs="*", default=[16, 18, 20, 22], help="blocks that are kept, as d3.yaml does")
    parser.add_argument("--only", default="encoder,training", help="groups to measure, of encoder, training")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no GPU here, so nothing was measured")
        return
    card = torch.cuda.get_device_name()
    print(f"{card}, torch {torch.__version__}, {options.model}, {options.batch_size} images in a forward pass")
    settings = {"pretrained": "random", "device": "cuda", "batch_size": options.batch_size, "blocks": options.blocks}
    config = ClipConfig(model=options.model, **settings)
    groups = {
        "encoder": lambda folder: encoder_figures(config, ON_GPU, tables=24),
        "training": lambda folder: training_figures(folder, "cuda", records=20_000, hidden=1536, number=50),
    }
    chosen = {name: groups[name] for name in options.only.split(",")}
    report(chosen, options.output, card=card, torch=torch.__version__, model=options.model)


if __name__ == "__main__":
    main()
