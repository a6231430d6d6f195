"""What `ray job submit --working-dir .` sends to a cluster."""

import zipfile
from pathlib import Path

import pytest
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package
from ray.runtime_env import RuntimeEnv

from rdd.signals import CLEAN_UP_S

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = tmp_path_factory.mktemp("package") / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    return package


def test_the_code_is_sent_and_is_below_two_megabytes(sent: Path) -> None:
    names = zipfile.ZipFile(sent).namelist()
    assert sent.stat().st_size < 2_000_000
    assert {"rdd/losses.py", "rdd/data/d3.py", "jobs/train.py", "jobs/configs/d3.yaml"} <= set(names)
    assert [name for name in names if name.split("/")[0] not in ("rdd", "jobs") and not name.endswith(".yaml")] == []
    assert [name for name in names if "__pycache__" in name] == []


def test_the_runtime_environment_is_one_and_leaves_a_job_the_time_to_clean_up() -> None:
    environment = RuntimeEnv(**yaml.safe_load((ROOT / "cluster" / "runtime_env.yaml").read_text()))
    assert float(environment.env_vars()["RAY_JOB_STOP_WAIT_TIME_S"]) > CLEAN_UP_S
