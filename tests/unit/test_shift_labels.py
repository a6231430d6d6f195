"""Which images a file of labels names, and which files are refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rdd import storage
from rdd.evaluation.scores import Scored
from rdd.evaluation.shift_labels import labelled_images

IDS = ["a", "a", "a", "b", "c"]
SCORED = Scored.named(np.zeros(5), np.array([0, 1, 1, 0, 1]), ["real", "sd", "xl", "real", "sd"], np.array([0, 0, 0, 1, 2]))


def chosen(path: Path, text: str) -> list[int]:
    path.write_text(text)
    return np.flatnonzero(labelled_images(str(path), SCORED, IDS)).tolist()


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("record_id,label\nb,0\nc,1\n", [3, 4]),
        ("\ufeffrecord_id,label\r\nb,0\r\nc,1\r\n", [3, 4]),  # as a spreadsheet writes it
        ("record_id,label\na,1\na,0\n", [0, 1, 2]),  # without a generator, all of the record that are of the class
        ("label,generator,record_id\n1,xl,a\n0,,b\n", [2, 3]),
        ("record_id,generator,label,logit\na,real,0,0.5\na,sd,1,1.5\n", [0, 1]),
    ],
)
def test_rows_name_images_as_logits_do(tmp_path: Path, text: str, images: list[int]) -> None:
    assert chosen(tmp_path / "labels.csv", text) == images


def test_parquet_is_read_as_csv_is(tmp_path: Path) -> None:
    place = str(tmp_path / "labels.parquet")
    names = pa.array(["xl", None]).dictionary_encode()
    storage.write_table(place, pa.table({"record_id": ["a", "b"], "generator": names, "label": pa.array([1, 0], pa.int8())}))
    assert np.flatnonzero(labelled_images(place, SCORED, IDS)).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("record_id,label\nb,0\nd,1\n", "row 2 must name a record of the images that are evaluated, got 'd'"),
        ("record_id,label\nb,1\n", "row 1 must have the label of the set itself for 'b', 0, got 1"),
        ("record_id,label,generator\na,1,flux\n", "row 1 must name a generator of the record 'a', got 'flux'"),
        ("record_id,label,generator\na,1,real\n", "row 1 must have the label of the set itself for 'a', 0, got 1"),
        ("record_id,label\nb,real\n", r"row 1 must have the label 0 \(real\) or 1 \(generated\), got 'real'"),
        ("record_id,label\nb\n", "row 1 must have the label 0 .*, got None"),
        ("record_id,label\na,0\nb,0\n", "must hold labels of both classes, .*, got 2 real and 0 generated images; label some"),
        ("record_id,label\n", "got 0 real and 0 generated images"),
        ("id,label\n", r"lacks the column\(s\) record_id; it has id, label"),
        ("", r"lacks the column\(s\) record_id, label; it has none"),
    ],
)
def test_what_is_wrong_is_said_with_its_row(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"labels.csv.* {said}"):
        chosen(tmp_path / "labels.csv", text)


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluate.shift_labels must name a file of labels, and there is none at"):
        labelled_images(str(tmp_path / "none.csv"), SCORED, IDS)
    for name, said in (
        ("labels.json", "must end in .csv or .parquet"),
        ("labels.parquet", "can not be read"),
        ("labels.csv", "can not be read: 'utf-8'"),
    ):
        (tmp_path / name).write_bytes(b"\xff\xfe no")
        with pytest.raises(ValueError, match=said):
            labelled_images(str(tmp_path / name), SCORED, IDS)
