"""Scores of images depend on what the images are, not on where their rows lie."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from _features import D, feature_rows, write_features

from rdd.calibration import Calibration
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored, read_logits, score_part, write_logits
from rdd.features import FeatureTable
from rdd.model import DetectorHead

CALIBRATION = Calibration(threshold=0.0, false_positive_rate=0.05, slope=1.0, offset=0.0, prior=0.5)


@dataclass
class Scorer:
    """What scoring needs of a detector."""

    head: DetectorHead

    def text_mode_for(self, table: FeatureTable) -> str:
        return "none"


@pytest.fixture
def scorer() -> Scorer:
    torch.manual_seed(0)
    return Scorer(DetectorHead(D, hidden=4, layers=1).eval())


def scored(scorer: Scorer, table: FeatureTable) -> tuple[Scored, torch.Tensor]:
    images = torch.arange(len(table))[len(table) // 3 :]
    return score_part(scorer, table, images), images


def test_records_and_intervals_do_not_depend_on_the_order_of_files(scorer: Scorer, tmp_path: Path) -> None:
    rows = feature_rows(60)
    one, _ = scored(scorer, FeatureTable.load(write_features(tmp_path / "a", rows)))
    other, _ = scored(scorer, FeatureTable.load(write_features(tmp_path / "b", rows[::-1], per_file=11)))
    assert np.array_equal(one.records, other.records)
    assert np.array_equal(one.logits, other.logits)
    reports = [evaluate(each, calibration=CALIBRATION, resamples=100, seed=0) for each in (one, other)]
    assert reports[0] == reports[1]
    assert reports[0]["auroc_interval"] is not None


def test_what_is_written_is_read_again(scorer: Scorer, tmp_path: Path) -> None:
    table = FeatureTable.load(write_features(tmp_path / "a", feature_rows(60)))
    made, images = scored(scorer, table)
    place = str(tmp_path / "test_logits.parquet")
    write_logits(place, made, table, images)
    read = read_logits(place)
    assert np.array_equal(read.logits, made.logits)
    assert np.array_equal(read.labels, made.labels)
    assert np.array_equal(read.records, made.records)
    names = [[each.generators[code] for code in each.generator_of] for each in (made, read)]
    assert names[0] == names[1]
