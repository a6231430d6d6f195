"""Where features are held, chosen from their size."""

from collections import namedtuple
from pathlib import Path

import pytest
import torch

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.on_ray import feature_placement

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
MIB = 2**20


@pytest.fixture
def features(tmp_path: Path, monkeypatch) -> str:
    """A directory of a hundred MiB, on a machine whose sizes the test sets."""
    storage.write_json(str(tmp_path / "manifest.json"), {})
    (tmp_path / "data").mkdir()
    with open(tmp_path / "data" / "a.parquet", "wb") as file:
        file.truncate(100 * MIB)
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
    assert feature_placement.place_of(FeaturesConfig(path=features, held=held), device) == expected


def test_what_is_no_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished embedding"):
        feature_placement.place_of(FeaturesConfig(path=str(tmp_path)))
