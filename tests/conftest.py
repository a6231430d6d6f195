"""What the tests share: a tiny seeded CLIP, a small sample set, and what becomes of a GPU's tests without one."""

import json
import sys
from pathlib import Path

import pytest

from rdd.config import ClipConfig, SampleConfig

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "integration"))  # the tests of a cluster use its web server

from _tiny_clip import TINY


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Model name of a CLIP that runs in milliseconds."""
    folder = tmp_path_factory.mktemp("tiny-clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    return f"local-dir:{folder}"


@pytest.fixture(scope="session")
def tiny_clip(tiny_model: str) -> ClipConfig:
    return ClipConfig(model=tiny_model, pretrained="random", batch_size=16)


@pytest.fixture(scope="session")
def sample_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records in two files."""
    from rdd.data.sample import make_sample

    folder = tmp_path_factory.mktemp("sample")
    make_sample(SampleConfig(output=str(folder), num_records=12, records_per_file=8))
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("this test needs a GPU and torch sees none here")
