"""The functions that measure and check on a GPU, run on the CPU with a tiny model: without a GPU they would be dead code."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import bench
import numpy as np
import pytest
import torch
from _stream import decoded, stream, values_of
from _training import first_losses, flops_of_step
from report import report
from synthetic import write_features

from rdd.clip import ClipEncoder
from rdd.config import ClipConfig
from rdd.features import FeatureTable


def test_streamed_tables_have_the_features_of_their_images(tiny_clip: ClipConfig) -> None:
    tables = decoded(4, 3, 2, 32)
    done = stream(replace(tiny_clip, batch_size=4, blocks=[1]), tables)
    pixels = np.frombuffer(
        b"".join(image for table in tables for row in table["pixels"].to_pylist() for image in row), np.uint8
    )
    encoder = ClipEncoder(tiny_clip.model, "random")
    expected = encoder.image_features(torch.from_numpy(pixels.copy()).reshape(-1, 32, 32, 3), ["projected", "block_1"])
    for name, values in expected.items():
        np.testing.assert_allclose(values_of(done.features, name), values.numpy(), rtol=2e-3, atol=2e-3)
    assert 0 < done.busy <= 1
    assert done.images_per_s > 0
    assert done.peak_bytes == 0


def test_the_figures_are_measured_and_reported(tiny_clip: ClipConfig, tmp_path: Path, capsys) -> None:
    options = {"fp32": {}, "channels_last": {"channels_last": True}}
    report(
        {
            "encoder": lambda folder: bench.encoder_figures(replace(tiny_clip, batch_size=10), options, tables=2),
            "training": lambda folder: bench.training_figures(folder, "cpu", records=600, hidden=16, number=1, rounds=1),
        },
        str(tmp_path / "bench.json"),
        card="none",
    )
    written = json.loads((tmp_path / "bench.json").read_text())
    assert len(written) == 2 * 3 + 4
    assert all(np.isfinite(figure["value"]) and figure["card"] == "none" for figure in written)
    assert "channels_last: projected moved, in deviations" in capsys.readouterr().out


def test_the_arithmetic_of_a_step_is_that_of_its_matrix_products() -> None:
    width, hidden = 24, 8
    products = width * hidden + 2 * hidden * hidden + hidden
    backwards = 2 * products - width * hidden  # nobody asks for the gradient of the features
    assert flops_of_step(width, hidden, 128) == 2 * 2 * 128 * (products + backwards)


def test_the_same_losses_come_at_every_start(tmp_path: Path) -> None:
    path = write_features(tmp_path / "features", records=300, images=5)
    table = FeatureTable.load(path, shared=str(tmp_path / "maps"))
    cpu = torch.device("cpu")
    assert first_losses(table, cpu) == first_losses(table.to(cpu), cpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which make bench-gpu would measure for minutes")
def test_without_a_gpu_nothing_is_measured_and_it_says_so(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--output", "/nowhere/bench.json"])
    bench.main()
    assert "torch sees no GPU here" in capsys.readouterr().out


def test_nothing_here_imports_ray_or_what_else_a_gpu_does_not_need() -> None:
    here = Path(__file__).parent
    modules = sorted(path.stem for path in here.glob("*.py"))
    assert {"bench", "test_golden", "test_overlap", "test_training"} <= set(modules)
    paths = [str(folder) for folder in (here, here.parent, here.parents[1])]
    unwanted = {"ray", "mlflow", "aiohttp", "s3fs", "scipy", "sklearn"}
    code = (
        f"import sys; sys.path[:0] = {paths}; import conftest, {', '.join(modules)};"
        f"print(sorted({{name.partition('.')[0] for name in sys.modules}} & {unwanted}))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
