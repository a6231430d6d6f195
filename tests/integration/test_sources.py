"""Embedding from wildcards, lists of files and the test folders of D3's authors; from S3 to S3, with local files between."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import s3_server

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override, to_yaml
from rdd.data.sample import make_record
from rdd.features import FeatureTable
from rdd.on_ray.embed import run_embedding

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def config(tiny_model: str, tmp_path: Path) -> Config:
    values = {
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "clip.batch_size": 15,
        "embed.output": str(tmp_path / "features"),
        "embed.threads_per_worker": 1,
        "cluster.address": "local",
        "cluster.num_cpus": 2,
        "tracking.enabled": False,
    }
    return override(Config(), values)


def write_test_folders(folder: Path) -> None:
    """Three records, each of five images and their copies."""
    for number in range(3):
        record, real = make_record(0, number)
        images = {"real": real["bytes"]} | {f"gen_{i}": record[f"image_gen{i}"]["bytes"] for i in range(4)}
        for variant in ("augm", "no_augm"):
            for name, data in images.items():
                place = folder / variant / name / f"{number}_{name}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data + (b"\0" if variant == "augm" else b""))


@pytest.mark.slow
def test_the_authors_test_folders_become_features(ray_session, config: Config, tmp_path: Path) -> None:
    write_test_folders(tmp_path / "d3_test")
    values = {"records.kind": "d3_test", "records.path": str(tmp_path / "d3_test"), "embed.text": False}
    summary = run_embedding(override(config, values))
    assert (summary["records_written"], summary["images"], summary["repeated_images"]) == (3, 30, 0)
    one = override(config, values | {"records.path": f"{tmp_path}/d3_test/augm", "embed.output": str(tmp_path / "augm")})
    assert run_embedding(one)["images"] == 15
    both, augmented = (FeatureTable.load(str(tmp_path / name)) for name in ("features", "augm"))
    assert sorted(both.record_ids.to_pylist()) == sorted(augmented.record_ids.to_pylist()) == ["0", "1", "2"]
    assert both.generators == augmented.generators
    assert both.generators[0] == "real"


@pytest.mark.long
def test_a_wildcard_on_s3_and_a_local_list_become_features_on_s3(
    config: Config, sample_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(sample_set / "real_images", tmp_path / "real")
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "real").rglob("*.parquet"))
    (tmp_path / "real.txt").write_text("".join(f"{path}\n" for path in files))
    with s3_server(monkeypatch) as server:
        for number, path in enumerate(sorted((sample_set / "records").rglob("*.parquet"))):
            storage.write_bytes(f"{server.bucket}/d3/{number}/part-0{number}.parquet", path.read_bytes())
        values = {
            "records.path": f"{server.bucket}/d3/*/part-0*.parquet",
            "records.real_images": str(tmp_path / "real.txt"),
            "embed.output": f"{server.bucket}/features",
        }
        (tmp_path / "config.yaml").write_text(to_yaml(override(config, values)))
        said = {}
        for flag in ("--dry-run", "", "--verify"):
            words = [sys.executable, "jobs/embed.py", "--config", str(tmp_path / "config.yaml"), *filter(None, [flag])]
            done = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(os.environ))
            assert done.returncode == 0, done.stderr
            said[flag] = json.loads(done.stdout)
    assert (said["--dry-run"]["files"], said["--dry-run"]["records_left"]) == (2, 12)
    assert (said[""]["records_written"], said["--verify"]["whole"], said["--verify"]["images"]) == (12, True, 60)
