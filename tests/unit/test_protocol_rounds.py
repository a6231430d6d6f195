"""Which generators each round of a protocol leaves out, and what the rounds come to."""

from pathlib import Path

import numpy as np
import pytest
from _features import feature_rows, write_features

from rdd.config import Config, FeaturesConfig
from rdd.config.parse import override
from rdd.evaluation.scores import Scored
from rdd.features import FeatureTable
from rdd.runs.protocol import Round, as_markdown, images_of_round, outcome_of, rounds_of, summarised

NAMES = ["sd-2.1", "if", "sd-1.4", "xl"]


def config(**values: object) -> Config:
    return override(Config(), {name.replace("__", "."): value for name, value in values.items()})


def test_each_generator_or_family_is_left_out_once() -> None:
    assert rounds_of(config(), NAMES) == [Round(name, (name,), (name,)) for name in sorted(NAMES)]
    families = config(protocol__kind="families", evaluate__families={"sd": ["sd-*"]})
    both = ("sd-1.4", "sd-2.1")
    assert rounds_of(families, NAMES) == [Round("if", ("if",), ("if",)), Round("sd", both, both), Round("xl", ("xl",), ("xl",))]


def test_by_date_the_past_is_trained_on_and_the_next_tested() -> None:
    dates = {"sd-1*": "2022-08", "sd-2*": "2022-12", "if": "2023-04", "xl": "2023-04"}
    rounds = rounds_of(config(protocol__kind="dates", protocol__released=dates), NAMES)
    assert rounds == [
        Round("from 2022-12", ("if", "sd-2.1", "xl"), ("sd-2.1",)),
        Round("from 2023-04", ("if", "xl"), ("if", "xl")),
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"protocol__kind": "families", "evaluate__families": {"all": ["*"]}}, "needs two of them, one to train on, got all"),
        ({"protocol__kind": "dates", "protocol__released": {"sd-*": "2022"}}, "must be a date such as 2022-08"),
        (
            {"protocol__kind": "dates", "protocol__released": {"sd-*": "2022-08"}},
            "a date for each generator, got none for if, xl",
        ),
        ({"protocol__kind": "dates", "protocol__released": {"*": "2022-08"}}, "must name two dates"),
        ({"protocol__kind": "dates"}, "must be given for kind dates alone"),
        ({"protocol__kind": "sets"}, "protocol.tests must be given for kind sets alone"),
        ({"features__leave_out": ["real"]}, "must name generators, not real"),
    ],
)
def test_a_protocol_that_can_not_be_is_refused(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rounds_of(config(**values), NAMES)


def test_what_is_left_out_is_in_the_test_part_alone(tmp_path: Path) -> None:
    table = FeatureTable.load(write_features(tmp_path / "a", feature_rows(120)))
    shares = {"validation_share": 0.3, "test_share": 0.3}
    whole, less = FeaturesConfig(**shares), FeaturesConfig(**shares, leave_out=["gen-0", "gen-3"])
    left_out = np.isin(table.generator_of.numpy(), [table.generators.index(name) for name in less.leave_out])
    for part in ("train", "validation"):
        expected = [image for image in table.split(whole, part).tolist() if not left_out[image]]
        assert table.split(less, part).tolist() == expected
    assert table.split(less, "test").tolist() == table.split(whole, "test").tolist()
    assert left_out[table.split(less, "test").numpy()].any()
    with pytest.raises(ValueError, match=r"leave_out must name generators of these features, gen-0.*got gen-9"):
        table.split(FeaturesConfig(leave_out=["gen-9"]), "test")


def test_rounds_come_to_a_mean_and_a_worst_with_intervals() -> None:
    rng, records = np.random.default_rng(0), np.repeat(np.arange(150), 3)
    labels, names = np.tile([0, 1, 1], 150), np.tile(np.array(["real", "a", "b"]), 150)
    tests = {}
    for name, shift in (("a", 2.0), ("b", 0.7)):
        scored = Scored.named(rng.normal(size=450) + shift * labels, labels, names, records)
        of_round = images_of_round(scored, Round(name, (name,), (name,)))
        assert len(of_round.logits) == 300
        tests[name] = outcome_of(of_round, resamples=200, seed=0)
    report = summarised(tests)
    assert report["worst"] == "b"
    assert report["mean_auroc"] == pytest.approx(np.mean([row["auroc"] for row in report["rounds"].values()]))
    for row in report["rounds"].values():
        alone, together = row["auroc_interval"], row["auroc_simultaneous_interval"]
        assert all(low < row["auroc"] < high for low, high in (alone, together))
        assert together[1] - together[0] > alone[1] - alone[0]
    assert report["worst_auroc_interval"] == report["rounds"]["b"]["auroc_simultaneous_interval"]
    assert as_markdown(report).count("\n") == 6
