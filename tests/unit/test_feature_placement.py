"""Where features are held, chosen from their size."""

from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from _features import manifest_features

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.on_ray import feature_placement

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MIB = 2**20


@pytest.fixture
def features(tmp_path: Path, monkeypatch) -> str:
    """Features of which the projection takes a hundred MiB, on a machine whose sizes the test sets."""
    kinds = {"encoder": {"embed_dim": 512}, "embed_dim": 512, "text": False}
    counts = {"records_written": 1, "images": 100 * 1024}
    features = manifest_features({"projected": 512, "block_2": 768, "block_5": 1024})
    storage.write_json(str(tmp_path / "manifest.json"), kinds | counts | {"features": features})
    (tmp_path / "data").mkdir()
    with open(tmp_path / "data" / "a.parquet", "wb") as file:
        file.truncate(900 * MIB)
    monkeypatch.setenv("RDD_MAP_DIR", str(tmp_path / "maps"))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("held", "device", "gpu_mib", "memory_mib", "disk_mib", "expected"),
    [
        ("auto", GPU, 201, 1000, 1000, "device"),
        ("auto", GPU, 199, 1000, 1000, "map"),
        ("auto", GPU, 199, 124, 1000, "stream"),
        ("auto", CPU, 0, 126, 101, "map"),
        ("auto", CPU, 0, 126, 99, "stream"),
        ("auto", CPU, 0, 124, 1000, "stream"),
        ("map", GPU, 1000, 1000, 1000, "map"),
        ("map", CPU, 0, 10, 10, "map"),
        ("device", GPU, 10, 1000, 1000, "device"),
        ("device", CPU, 0, 1000, 1000, "map"),
        ("stream", GPU, 1000, 1000, 1000, "stream"),
    ],
)
def test_the_place_is_the_nearest_that_has_room(
    features: str, monkeypatch, held: str, device: torch.device, gpu_mib: int, memory_mib: int, disk_mib: int, expected: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu_mib * MIB, 2 * gpu_mib * MIB))
    monkeypatch.setattr(feature_placement.os, "sysconf", lambda name: MIB if name == "SC_PAGE_SIZE" else memory_mib)
    monkeypatch.setattr(feature_placement.shutil, "disk_usage", lambda path: usage(0, 0, disk_mib * MIB))
    assert feature_placement.place_of(FeaturesConfig(path=features, held=held), device, to_train=False) == expected


def test_what_is_no_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished embedding"):
        feature_placement.place_of(FeaturesConfig(path=str(tmp_path)), to_train=True)


@pytest.mark.parametrize(("memory_mib", "disk_mib", "lacking"), [(124, 1000, "GiB of memory"), (1000, 99, "GiB free")])
def test_training_never_streams_unless_told_to(
    features: str, monkeypatch, memory_mib: int, disk_mib: int, lacking: str
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(feature_placement.os, "sysconf", lambda name: MIB if name == "SC_PAGE_SIZE" else memory_mib)
    monkeypatch.setattr(feature_placement.shutil, "disk_usage", lambda path: usage(0, 0, disk_mib * MIB))
    with pytest.raises(ValueError, match=rf"features.held must be map or stream here, got auto: .*{lacking}.*another order"):
        feature_placement.place_of(FeaturesConfig(path=features), to_train=True)
    assert feature_placement.place_of(FeaturesConfig(path=features, held="stream"), to_train=True) == "stream"
    assert feature_placement.place_of(FeaturesConfig(path=features, held="map"), to_train=True) == "map"


def test_a_quarter_of_a_gpu_is_filled_by_a_quarter(features: str, monkeypatch) -> None:
    class Context:
        worker = SimpleNamespace(mode=feature_placement.ray.WORKER_MODE)

        def get_assigned_resources(self) -> dict[str, float]:
            return {"CPU": 1.0, "GPU": 0.25}

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700 * MIB, 799 * MIB))
    assert feature_placement.place_of(FeaturesConfig(path=features), GPU, to_train=True) == "device"
    monkeypatch.setattr(feature_placement.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(feature_placement.ray, "get_runtime_context", Context)
    assert feature_placement.place_of(FeaturesConfig(path=features), GPU, to_train=True) == "map"


@pytest.mark.parametrize(
    ("inputs", "mib"), [(["projected"], 100), (["block_2"], 150), (["block_5"], 400), (["block_5", "projected"], 500)]
)
def test_the_size_is_that_of_the_inputs(features: str, monkeypatch, inputs: list[str], mib: int) -> None:
    config = FeaturesConfig(path=features, inputs=inputs)
    assert feature_placement.feature_bytes(config) == mib * MIB
    for free, place in ((2 * mib + 1, "device"), (2 * mib - 1, "map")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free * MIB, 2 * free * MIB))
        assert feature_placement.place_of(config, GPU, to_train=True) == place
