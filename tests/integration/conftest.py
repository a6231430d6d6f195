"""One Ray session for all integration tests; jobs called in this process use it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    from rdd.config import ClusterConfig
    from rdd.on_ray import session

    with session.ray_session(ClusterConfig(address="local", num_cpus=2), [], knobs="nothing"):
        yield


@pytest.fixture(scope="session")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from _small import write_small_features

    return write_small_features(tmp_path_factory.mktemp("features"))
