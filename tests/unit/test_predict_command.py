import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from _small_detector import detector_of
from _tiny_detector import TinyDetector, write_pictures, write_tiny_detector
from PIL import Image

from rdd.clip import ClipEncoder
from rdd.on_ray.main import main
from rdd.serving.answer import Answer, answer_schema
from rdd.serving.predictor import Predictor
from rdd.serving.rows import ROWS, row_of
from rdd.serving.writers import writer_of


@pytest.fixture(scope="module")
def tiny(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> TinyDetector:
    return write_tiny_detector(tmp_path_factory.mktemp("tiny-detector"), tiny_model)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, 5)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "empty.jpg").touch()
    return folder


def predict(tiny: TinyDetector, *words: object) -> int:
    """Exit code of ``rdd predict`` in this process."""
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, words), "--detector", tiny.path, "--weights", tiny.weights])
    return int(ended.value.code or 0)


def test_json_is_one_answer_a_line_and_agrees_with_the_detector(
    tiny: TinyDetector, photos: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert predict(tiny, photos, "--batch-size", 2) == 0
    answers = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [Path(answer["image"]).name for answer in answers] == sorted(place.name for place in photos.iterdir())
    scored = {answer["image"]: answer["score"] for answer in answers if answer["error"] is None}
    expected = tiny.load().score([Image.open(place) for place in scored])
    np.testing.assert_allclose(list(scored.values()), expected, atol=1e-5)
    errors = {Path(answer["image"]).name: answer["error"]["reason"] for answer in answers if answer["error"]}
    assert errors == {"broken.png": "not_an_image", "empty.jpg": "empty"}


def test_csv_and_parquet_hold_the_flattened_answers(tiny: TinyDetector, photos: Path, tmp_path: Path) -> None:
    for name in ("out.csv", "out.parquet", "out.json"):
        assert predict(tiny, photos, "--output", tmp_path / name) == 0
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.equals(ROWS)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    answers = [json.loads(line) for line in (tmp_path / "out.json").read_text().splitlines()]
    assert len(rows) == table.num_rows == len(answers) == 7
    for row, held, answer in zip(rows, table.to_pylist(), answers, strict=True):
        assert row["sha256"] == (held["sha256"] or "") == (answer["sha256"] or "")
        assert row == {name: "" if value is None else str(value) for name, value in held.items()}
        assert held["score"] == answer["score"]
        assert held["true_positive_rate_low"] == answer["true_positive_rate"]["interval"][0]


def test_a_row_has_every_column_and_no_other(tiny: TinyDetector) -> None:
    predictor = Predictor(tiny.load())
    answer = predictor.answers([predictor.preparer(b"", "x")])[0]
    row = row_of(answer)
    assert set(row) == set(ROWS.names)
    assert (row["image"], row["error_reason"], row["score"]) == ("x", "empty", None)


def table_of(answers: list[Answer]) -> str:
    stream = io.BytesIO()
    writer = writer_of("table", stream)
    writer.write(answers, [None] * len(answers))
    writer.close()
    return stream.getvalue().decode()


def test_the_table_is_readable_at_100_columns(tiny: TinyDetector, photos: Path) -> None:
    predictor = Predictor(tiny.load())
    names = ["a.png", "a/very/long/path/that/goes/on/and/on/and/on/to/the/image.png", "odd\x1b[2J\n.png"]
    data = (photos / "000.png").read_bytes()
    text = table_of(predictor.answers([*(predictor.preparer(data, name) for name in names), predictor.preparer(b"", "e")]))
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
    assert "on/to/the/image.png  " in text
    assert "unreadable" in text
    assert "must not be the sole basis" in " ".join(text.split())


def test_explanations_are_files_and_stand_in_json(
    tiny: TinyDetector, photos: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert predict(tiny, photos / "000.png", photos / "empty.jpg", "--explain", tmp_path / "maps") == 0
    explained, error = (json.loads(line) for line in capfdbinary.readouterr().out.splitlines())
    place = tmp_path / "maps" / f"{explained['sha256']}.png"
    assert explained["explanation"]["occlusion"]["png"] == str(place)
    assert Image.open(place).format == "PNG"
    assert explained["explanation"]["nearest"] == []
    assert json.loads(place.with_suffix(".json").read_text()) == explained["explanation"]
    assert "explanation" not in error


def test_what_can_not_be_answered_is_not_explained(
    tiny: TinyDetector, tiny_model: str, photos: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    detector = detector_of(ClipEncoder(tiny_model, "random"), "shared")
    detector.save(str(tmp_path / "of-text"))
    words = ["predict", str(photos / "000.png"), "--detector", str(tmp_path / "of-text"), "--explain", str(tmp_path / "maps")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    (answer,) = (json.loads(line) for line in capfdbinary.readouterr().out.splitlines())
    assert answer["error"]["reason"] == "no_caption"
    assert not (tmp_path / "maps").exists()


def test_no_cell_of_a_csv_is_a_formula(tiny: TinyDetector, photos: Path) -> None:
    predictor, stream = Predictor(tiny.load()), io.BytesIO()
    data = (photos / "000.png").read_bytes()
    (answer,) = predictor.answers([predictor.preparer(data, "=cmd|' /C calc'!A0")])
    claims = replace(answer.content_credentials, state="present", claim_generator="\t@SUM(1)", signer="A + B")
    writer = writer_of("csv", stream)
    writer.write([replace(answer, content_credentials=claims)], [None])
    (row,) = csv.DictReader(io.StringIO(stream.getvalue().decode()))
    assert (row["image"], row["credentials_claim_generator"]) == ("'=cmd|' /C calc'!A0", "'\t@SUM(1)")
    assert (row["credentials_signer"], float(row["score"])) == ("A + B", answer.score)


def test_the_schema_of_an_answer_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--schema"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out) == answer_schema()


def test_hugging_faces_labels(tiny: TinyDetector, photos: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert predict(tiny, photos / "000.png", photos / "empty.jpg", "--huggingface") == 0
    labels, error = (json.loads(line) for line in capfdbinary.readouterr().out.splitlines())
    assert {label["label"] for label in labels} == {"real", "generated"}
    assert sum(label["score"] for label in labels) == pytest.approx(1)
    assert error["error"]["reason"] == "empty"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--format", "table", "--huggingface"], "--huggingface goes with --format json alone, got table"),
        (["--batch-size", "0"], "--batch-size must be at least 1, got 0"),
        (["--precision", "fp16"], "--precision must be fp32 or bf16 when --device is cpu"),
        (["--allow-urls"], "--allow-urls needs --contact"),
        (["--contact", "me@example.org"], "--contact is sent with requests alone"),
        (["--here-up-to", "2"], "7 images are more than the 2 that are answered in this process"),
        (["--here-up-to", "2", "--output", "x.csv"], "--output must then be a directory, where Ray writes Parquet"),
        (["--here-up-to", "2", "--output", "x", "--explain"], "--explain takes fifty passes of the encoder"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    tiny: TinyDetector, photos: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(tiny, photos, *words) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_no_detector_and_other_weights_are_one_sentence(
    tiny: TinyDetector, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(TinyDetector(str(tmp_path), tiny.weights), photos) == 2
    assert "no detector.json at" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    assert predict(TinyDetector(tiny.path, str(other)), photos) == 2
    assert "holds other weights" in capsys.readouterr().err


def test_as_a_process_it_imports_no_ray_and_ends_quietly_with_its_reader(tiny: TinyDetector, photos: Path) -> None:
    words = f"predict {photos} --detector {tiny.path} --weights {tiny.weights} --batch-size 1"
    script = f'{sys.executable} -X importtime -m rdd.on_ray.main {words} 2>err | head -c 10; echo -n " ${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, cwd=photos.parent, env=os.environ)
    errors = (photos.parent / "err").read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in errors if line.startswith("import time:")}
    assert not {name for name in imported if name.split(".")[0] == "ray"}
    said = [line for line in errors if not line.startswith("import time:")]
    assert [line for line in said if "is unknown to rdd" not in line] == []
    assert done.stdout in (b'{"image":  141', b'{"image":  0')  # a short answer may fit into the pipe before it closes


def test_nothing_that_matches_is_code_2(tiny: TinyDetector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(tiny, tmp_path / "*.jpg") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no image matches" in shown.err.splitlines()[-1]
