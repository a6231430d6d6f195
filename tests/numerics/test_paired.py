"""What is known of an AUC and of a difference: checked by simulation and against brute force."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rdd.calibration import Calibration
from rdd.evaluation.ablation_figures import as_png, auc_bars
from rdd.evaluation.ablation_table import ablation_rows, as_csv, as_markdown
from rdd.evaluation.bootstrap import bound_without_errors
from rdd.evaluation.paired import difference, holm, joint_bootstrap, record_components, spread_of_difference
from rdd.evaluation.report import evaluate
from rdd.evaluation.scores import Scored

IMAGES = 5
CALIBRATION = Calibration(threshold=1.0, false_positive_rate=0.05, slope=1.0, offset=0.0, prior=0.5)


def two_rows(
    rng: np.random.Generator, *, records: int, seeds: int, gain: float = 0.0, by_record: str = "all", by_seed: float = 0.0
) -> tuple[list[Scored], list[Scored]]:
    """Two rows on the same images: what they share is that of the record and of the image, and each has its own by record.

    ``by_record``: all: what a row makes of a record is in all its images, which cancels; generated: in its generated ones.
    ``by_seed``: how much training with another seed changes a row.
    """
    labels = np.tile([0, 1, 1, 1, 1], records)
    record = np.repeat(np.arange(records), IMAGES)
    names = np.tile(np.array(["real", "a", "b", "c", "d"]), records)
    shared = 0.6 * rng.normal(size=records)[record] + rng.normal(size=len(labels))
    rows = []
    for extra in (0.0, gain):
        own = 0.6 * rng.normal(size=records)[record] * (1 if by_record == "all" else labels)
        of_seeds = []
        for _ in range(seeds):
            noise, shift = 0.3 * rng.normal(size=len(labels)), 1.2 + extra + by_seed * rng.normal()
            of_seeds.append(Scored.named(shared + own + noise + shift * labels, labels, names, record))
        rows.append(of_seeds)
    return rows[0], rows[1]


@pytest.mark.parametrize("by_record", ["all", "generated"])
@pytest.mark.parametrize(("seeds", "by_seed"), [(1, 0.0), (3, 0.05), (5, 0.2)])
def test_true_nulls_are_rejected_as_often_as_the_level_says(by_record: str, seeds: int, by_seed: float) -> None:
    rng = np.random.default_rng(seeds)
    draws = [two_rows(rng, records=100, seeds=seeds, by_record=by_record, by_seed=by_seed) for _ in range(600)]
    rejected = np.mean([spread_of_difference(*rows).p_value < 0.05 for rows in draws])
    assert 0.02 <= rejected <= 0.075, rejected  # 600 draws of 5 % have a standard error of 0.9 %


@pytest.mark.parametrize(("by_record", "low", "high"), [("all", 0.0, 0.035), ("generated", 0.085, 0.3)])
def test_images_taken_for_independent_would_mislead(by_record: str, low: float, high: float) -> None:
    """Why components are summed over records: as plain DeLong has them, the same nulls are rejected too seldom or too often."""
    rng = np.random.default_rng(0)
    plain = []
    for _ in range(600):
        rows = two_rows(rng, records=100, seeds=1, by_record=by_record)
        alone = np.arange(100 * IMAGES)
        as_alone = [[replace(s, records=alone) for s in row] for row in rows]
        plain.append(spread_of_difference(*as_alone).p_value < 0.05)
    assert low <= np.mean(plain) <= high, np.mean(plain)


def test_a_true_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    found = [spread_of_difference(*two_rows(rng, records=150, seeds=3, gain=0.8)).p_value < 0.05 for _ in range(40)]
    assert np.mean(found) > 0.8


def test_components_are_the_change_of_the_auc_without_a_record() -> None:
    one, _ = two_rows(np.random.default_rng(2), records=300, seeds=1)
    scored = one[0]
    components = record_components(scored)
    assert components.sum() == pytest.approx(0, abs=1e-12)
    whole = roc_auc_score(scored.labels, scored.logits)
    jackknife = []
    for record in range(300):
        keep = scored.records != record
        jackknife.append(whole - roc_auc_score(scored.labels[keep], scored.logits[keep]))
    assert np.corrcoef(components, jackknife)[0, 1] > 0.999
    assert np.square(components).sum() == pytest.approx(np.square(jackknife).sum(), rel=0.03)


@pytest.mark.parametrize(("seeds", "by_seed"), [(3, 0.0), (3, 0.2), (5, 0.5)])
def test_the_interval_of_a_difference_covers_the_truth(seeds: int, by_seed: float) -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for turn in range(100):
        one, other = two_rows(rng, records=60, seeds=seeds, by_seed=by_seed)
        drawn = joint_bootstrap({"one": one, "other": other}, resamples=200, seed=turn)
        low, high = difference(one, other, drawn["one"], drawn["other"]).interval
        covered += low <= 0 <= high
    assert covered >= 89, covered  # 95 of a hundred, with a standard error of 2.2


def test_rows_that_are_one_have_no_difference() -> None:
    one, _ = two_rows(np.random.default_rng(4), records=30, seeds=2)
    assert spread_of_difference(one, one).p_value == 1.0
    drawn = joint_bootstrap({"one": one, "same": one}, resamples=100, seed=0)
    assert np.array_equal(drawn["one"], drawn["same"])


def test_holm_is_that_of_statsmodels_by_hand() -> None:
    assert holm({"a": 0.001, "b": 0.02, "c": 0.04, "d": 0.5}) == pytest.approx({"a": 0.004, "b": 0.06, "c": 0.08, "d": 0.5})
    assert holm({}) == {}


def test_where_nothing_is_misranked_there_is_a_bound_that_holds() -> None:
    labels, records = np.tile([0, 1], 50), np.repeat(np.arange(50), 2)
    scored = Scored.named(labels * 2.0, labels, np.where(labels, "sd", "real"), records)
    report = evaluate(scored, calibration=CALIBRATION, resamples=100, seed=0)
    bound = bound_without_errors(records, labels)
    assert report["auroc_interval"] == [bound, 1.0]
    assert 0.85 < bound < 0.95
    rare = np.array([0] * 97 + [1] * 3)  # three generated images make three pairs, however many real ones there are
    assert bound_without_errors(np.arange(100), rare) == pytest.approx(0.05 ** (1 / 3))
    # a detector whose AUC is just that is taken for perfect in at most 5 % of sets of so many records
    rng = np.random.default_rng(0)
    shift = np.sqrt(2) * 1.2063  # AUC 0.887, that of two normal distributions so far apart
    perfect = [np.max(rng.normal(size=50)) < np.min(shift + rng.normal(size=50)) for _ in range(2000)]
    assert bound == pytest.approx(0.887, abs=0.001)
    assert np.mean(perfect) <= 0.05


def test_the_table_holds_every_row_in_its_three_forms() -> None:
    rng = np.random.default_rng(5)
    ours, worse = two_rows(rng, records=150, seeds=3, gain=-0.9)
    same, _ = two_rows(np.random.default_rng(6), records=150, seeds=3)
    rows = ablation_rows(
        {"traditional1": worse, "traditional2": worse, "without_sam": same, "ours": ours},
        baseline="ours",
        resamples=100,
        seed=0,
        same_as={"traditional2": "traditional1"},
    )
    by_name = {row.name: row for row in rows}
    assert by_name["traditional1"].distinguishable
    assert by_name["traditional2"].p_adjusted == by_name["traditional1"].p_adjusted
    assert by_name["ours"].difference is None
    assert by_name["traditional1"].difference.value == pytest.approx(by_name["traditional1"].auroc - by_name["ours"].auroc)
    markdown = as_markdown(rows, "ours")
    assert "traditional2 (is traditional1)" in markdown
    assert "0.99999854" in markdown
    assert markdown.count("not published here") == 3
    lines = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert [line["row"] for line in lines] == list(by_name)
    assert float(lines[0]["auroc"]) == by_name["traditional1"].auroc
    assert lines[3]["difference"] == ""
    for picture in (as_png(rows, "ours"), auc_bars(rows, "ours")):
        assert picture.startswith(b"\x89PNG")
