"""Answers for many images on Ray Data: killed and started again they are complete, and each image is answered once."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from _embed_job import commits, wait_until
from _small_detector import detector_of
from _tiny_detector import TinyDetector, write_tiny_detector
from PIL import Image

from rdd import storage
from rdd.clip import ClipEncoder
from rdd.data.unlabelled import UnlabelledSource
from rdd.detector import Detector
from rdd.serving.predictor import Predictor
from rdd.serving.rows import row_of
from rdd.serving.steps import KEYED_ROWS

BROKEN_EVERY = 100


@pytest.fixture(scope="module")
def tiny(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> TinyDetector:
    return write_tiny_detector(tmp_path_factory.mktemp("tiny-detector"), tiny_model)


def write_images(place: Path, number: int) -> None:
    """A Parquet table of tiny images, one in a hundred of them broken."""
    rng, images = np.random.default_rng(0), []
    for i in range(number):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(stream, "PNG")
        images.append(b"broken" if i % BROKEN_EVERY == 7 else stream.getvalue())
    storage.write_table(str(place), pa.table({"bytes": images}), row_group_size=2000)


def words_of(tiny: TinyDetector, images: Path, output: Path, **more: Any) -> list[str]:
    settings = {
        "detector": tiny.path,
        "weights": tiny.weights,
        "images": f"[{images}]",
        "output": output,
        "threads_per_worker": 1,
        **more,
    }
    words = [word for name, value in settings.items() for word in (f"--predict.{name}", str(value))]
    cluster = ["--cluster.address", "local", "--cluster.num_cpus", "2", "--tracking.enabled", "false"]
    return [sys.executable, "jobs/predict.py", *words, *cluster]


def killed_after(number: int, words: list[str], output: Path) -> None:
    """Start the job and kill it with -9 once there are so many commits."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: commits(output) >= number, process, seconds=1200)
        finally:
            process.kill()
    assert not (output / "predictions.json").exists()


def finished(words: list[str]) -> tuple[dict[str, Any], str]:
    """Summary and log of the job, run to its good end."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def check_complete(output: Path, images: Path, number: int, summary: dict[str, Any]) -> pa.Table:
    files = [file.path for file in storage.list_files(str(output / "data"), suffix=".parquet")]
    table = pa.concat_tables(storage.read_table(file, way_out="") for file in files)
    assert sorted(table["key"].to_pylist()) == sorted(f"{images}#{row}" for row in range(number))
    broken = len(range(7, number, BROKEN_EVERY))
    assert (summary["images"], summary["unreadable"], summary["answered"]) == (number, broken, number - broken)
    assert summary["unreadable_by_reason"] == {"not_an_image": broken}
    assert table["error_reason"].null_count == number - broken
    return table


@pytest.mark.slow
def test_killed_and_started_again_every_image_is_answered_once_and_as_in_one_process(
    tiny: TinyDetector, tmp_path: Path
) -> None:
    images, output = tmp_path / "images.parquet", tmp_path / "answers"
    write_images(images, 300)
    words = words_of(tiny, images, output, batch_size=10, records_per_task=10, records_per_commit=20)
    killed_after(2, words, output)
    summary, log = finished(words)
    assert "of 300 records to answer" in log
    assert "300 of 300 records to answer" not in log
    table = check_complete(output, images, 300, summary)
    assert table.schema.remove_metadata().equals(KEYED_ROWS)
    again, log = finished(words)
    assert again == summary
    assert "is finished" in log
    other = detector_of(ClipEncoder(Detector.load(tiny.path).encoder_identity["model"], tiny.weights))
    replace(other, calibration=replace(other.calibration, threshold=0.5)).save(str(tmp_path / "other"))
    refused = subprocess.run(
        [word.replace(tiny.path, str(tmp_path / "other")) for word in words], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "must be a directory of its own for each detector" in refused.stderr
    predictor, source = Predictor(tiny.load()), UnlabelledSource([str(images)])
    data = {row["key"]: row["images"] for part in source.reader(source.index().slice(0, 3)) for row in part.to_pylist()}
    by_key = {row.pop("key"): row for row in table.to_pylist()}
    for row in range(3):
        key = f"{images}#{row}"
        expected = row_of(predictor.answers([predictor.preparer(data[key][0], f"images.parquet#{row}")])[0])
        assert {**by_key[key], "score": None, "probability": None} == {**expected, "score": None, "probability": None}
        assert by_key[key]["score"] == pytest.approx(expected["score"], abs=1e-5)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_100_000_images_killed_twice_are_complete(tiny: TinyDetector, tmp_path: Path) -> None:
    images, output = tmp_path / "images.parquet", tmp_path / "answers"
    write_images(images, 100_000)
    words = words_of(tiny, images, output, batch_size=256)
    killed_after(10, words, output)
    killed_after(40, words, output)
    summary, log = finished(words)
    assert "100000 of 100000 records to answer" not in log
    check_complete(output, images, 100_000, summary)
