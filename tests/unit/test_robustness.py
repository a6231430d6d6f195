"""A detector on degraded copies: pairing of images, rows of the table, and the settings."""

import numpy as np
import pytest
import yaml

from rdd.config import Config
from rdd.config.degrade import TRANSFORMS, degradations
from rdd.config.parse import from_yaml, override, to_yaml
from rdd.config.robustness import transforms_of
from rdd.evaluation.pairing import common_images, image_keys
from rdd.evaluation.robustness import CLEAN, as_markdown, copy_rows
from rdd.evaluation.robustness_figure import robustness_figure
from rdd.evaluation.scores import Scored
from rdd.metrics import auroc


def scored(shift: float, *, records: int = 60, seed: int = 0) -> Scored:
    """A real image and one of each of two generators a record; generated logits lie ``shift`` higher, those of b half of it."""
    rng = np.random.default_rng(seed)
    lift = np.array([0.0, shift, shift / 2])
    logits = (rng.normal(0, 1, (records, 1)) + rng.normal(0, 0.3, (records, 3)) + lift).ravel()
    return Scored(
        logits, np.tile([0, 1, 1], records), np.tile([0, 1, 2], records), ("real", "a", "b"), np.repeat(range(records), 3)
    )


def test_rows_compare_each_copy_with_the_clean_images_of_the_same_records() -> None:
    copies = {"jpeg 50": scored(1.5), "blur 4": scored(0.0)}
    rows = copy_rows(scored(2.0), copies, threshold=0.5, resamples=200, seed=0)
    assert list(rows) == [CLEAN, "jpeg 50", "blur 4"]
    clean, jpeg, blur = rows.values()
    assert clean.difference is None
    assert clean.auroc == auroc(scored(2.0).logits, scored(2.0).labels)
    assert clean.auroc_interval[0] < clean.auroc < clean.auroc_interval[1]
    assert jpeg.difference.value == pytest.approx(jpeg.auroc - clean.auroc)
    assert jpeg.difference.interval[1] < 0
    paired = np.diff(jpeg.difference.interval)[0]
    assert paired < np.diff(jpeg.auroc_interval)[0], "images of one record go up and down together"
    assert blur.p_adjusted < 1e-6
    assert (clean.worst_generator, blur.false_positive_rate) == ("b", clean.false_positive_rate)
    assert blur.true_positive_rate < jpeg.true_positive_rate < clean.true_positive_rate
    same = copy_rows(scored(2.0), {"flip": scored(2.0)}, threshold=0.5, resamples=100, seed=0)["flip"]
    assert (same.difference.value, same.p_adjusted) == (0.0, 1.0)
    perfect = copy_rows(scored(50.0), {"flip": scored(50.0)}, threshold=0.5, resamples=100, seed=0)[CLEAN]
    assert perfect.auroc == 1
    assert perfect.auroc_interval[0] < 1 == perfect.auroc_interval[1]


def test_the_table_and_the_figure_hold_every_copy_of_every_curve() -> None:
    curves = {"jpeg": ["jpeg 50", "jpeg 30"], "odd_$name": ["blur 4"]}
    copies = {copy: scored(1.0 + number / 4) for number, copy in enumerate(("jpeg 50", "jpeg 30", "blur 4"))}
    rows = copy_rows(scored(2.0), copies, threshold=0.5, resamples=100, seed=0)
    lines = as_markdown(curves, rows, "180 images").splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:6]] == [
        ["| ", "clean"],
        ["| jpeg", "jpeg 50"],
        ["| jpeg", "jpeg 30"],
        ["| odd_$name", "blur 4"],
    ]
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[-1] == "180 images"
    assert robustness_figure(curves, rows, "a title").startswith(b"\x89PNG")
    assert rows["blur 4"].to_json()["difference"]["value"] == rows["blur 4"].difference.value


def test_images_are_paired_whatever_their_order_and_those_that_one_set_lacks_are_counted() -> None:
    one = scored(1.0, records=4)
    names = ["r0", "r1", "r10", "r2"]
    keys = image_keys([names[record] for record in one.records], [one.generators[code] for code in one.generator_of])
    order = np.random.default_rng(0).permutation(12)[:11]
    other = Scored(
        one.logits[order], one.labels[order], 2 - one.generator_of[order], ("b", "a", "real"), one.records[order] + 7
    )
    found, left_out = common_images({"one": (one, keys), "other": (other, keys[order])})
    assert left_out == 1
    first, second = found.values()
    assert len(first.logits) == 11
    assert np.array_equal(first.logits, second.logits)
    assert np.array_equal(first.records, second.records)
    assert [first.generators[c] for c in first.generator_of] == [second.generators[c] for c in second.generator_of]
    assert image_keys(["r", "r", "r"], ["a", "a", "b"]).tolist() == ["r\0a\x000", "r\0a\x001", "r\0b\x000"]
    nothing, left_out = common_images({"one": (one, keys), "other": (one, np.char.add("x", keys.astype(str)).astype(object))})
    assert (len(nothing["one"].logits), left_out) == (0, 24)


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        ({"jpeg": ["jpeg 500"]}, r"robustness.curves must give jpeg a strength in \[1, 100\]"),
        ({"jpeg": ["jpeg 50,jpeg 30"]}, "robustness.curves must be written as"),
        ({"jpeg": []}, "robustness.curves must hold a copy under jpeg"),
        ({"a/b": ["jpeg 50"]}, "robustness.curves must be named by letters"),
    ],
)
def test_wrong_curves_are_refused(curves: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        override(Config(), {"robustness.curves": curves})


def test_the_named_list_has_every_kind_of_degradation() -> None:
    with open("jobs/configs/robustness.yaml") as file:
        text = file.read()
    config = from_yaml(text)
    assert yaml.safe_load(text).keys() == {"robustness"}
    assert from_yaml(to_yaml(config)) == config
    names = {
        step.name
        for copies in config.robustness.curves.values()
        for copy in copies
        for step in degradations(transforms_of(copy))
    }
    wanted = {"jpeg", "webp", "blur", "scale", "shorter_side", "crop", "noise", "grayscale", "screenshot", "code"}
    assert wanted <= names <= TRANSFORMS.keys()
