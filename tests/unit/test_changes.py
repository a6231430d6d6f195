"""What a run changes against the paper's method, as MLflow's tables name it."""

import dataclasses
from pathlib import Path

import pytest

from rdd.config import Config
from rdd.config.parse import from_yaml, override, settings_of
from rdd.config.yaml_text import load_yaml
from rdd.tracking.changes import OURS, changes

PRESETS = Path("jobs/configs")


def named(job: Config = Config(), *, auto: str = "none", **values: object) -> str:  # noqa: B008
    asked = {"model.standardize": False} | {name.replace("__", "."): value for name, value in values.items()}
    return changes(settings_of(override(job, asked), [field.name for field in dataclasses.fields(Config)]), job, auto=auto)


def test_ours_is_what_its_preset_says() -> None:
    assert override(Config(), OURS) == from_yaml((PRESETS / "ours.yaml").read_text())


def test_the_rows_of_the_paper_read_as_what_they_change() -> None:
    rows = load_yaml((PRESETS / "ablation.yaml").read_text())["ablate"]["rows"]
    texts = {
        name: changes(settings_of(override(Config(), row), ["features", "model", "loss", "sam"]), Config(), auto="shared")
        for name, row in rows.items()
    }
    assert texts == {
        "traditional1": "text_mode none, alpha 1, gamma 1, sam off",
        "traditional2": "alpha 1, gamma 1, sam off",
        "without_cvar": "alpha 1",
        "without_bce": "gamma 0",
        "without_auc": "gamma 1",
        "without_sam": "sam off",
        "ours": "ours",
    }
    official = from_yaml((PRESETS / "official.yaml").read_text())
    expected = "text_mode official, activation leaky_relu, schedule official"
    assert changes(settings_of(official, ["features", "model", "optimizer"]), official, auto="shared") == expected


def test_what_changes_nothing_is_not_named() -> None:
    assert named() == "ours"
    assert named(auto="shared", features__text_mode="shared") == "ours"  # what auto comes to
    assert named(auto="none", features__text_mode="none") == "ours"
    assert named(train__seed=3, train__output="runs/x", features__path="data/x", evaluate__seed=2) == "ours"
    general = override(Config(), {"train.epochs": 10})
    assert named(general) == "ours"  # how long a set is trained on is not of the method
    assert named(general, train__epochs=20, train__batch_size=64) == "epochs 20, batch_size 64"


def test_what_a_row_has_of_its_own_stands_before_what_all_rows_share() -> None:
    shared = override(Config(), {"model.hidden": 64, "optimizer.lr": 0.01, "model.standardize": False})
    assert named(shared, loss__gamma=0.0) == "gamma 0, hidden 64, lr 0.01"
    assert named(shared) == "hidden 64, lr 0.01"


def test_values_are_short_and_a_long_line_ends_in_a_count() -> None:
    assert named(sam__rho=0.012345678, model__kind="blocks") == "model blocks, rho 0.01235"
    assert named(model__standardize=True, features__inputs=["block_9", "block_10"]) == "inputs block_9+block_10, standardize on"
    many = [f"generator-{number}" for number in range(30)]
    assert named(features__leave_out=many, loss__gamma=0.1) == "leave_out 30 names, gamma 0.1"
    line = named(**{f"optimizer__{name}": 0.5 for name in ("beta1", "beta2", "weight_decay", "warmup_share", "max_grad_norm")})
    assert line == "beta1 0.5, beta2 0.5, weight_decay 0.5, warmup_share 0.5, max_grad_norm 0.5"
    everything = dict.fromkeys(settings_of(Config(), ["model", "loss", "sam", "optimizer"]), "another")
    line = changes(everything, Config(), auto="none")
    assert len(line) <= 250
    assert line.endswith(" more")


@pytest.mark.parametrize("section", ["model", "loss", "sam", "optimizer"])
def test_every_setting_of_the_method_is_compared(section: str) -> None:
    for field in dataclasses.fields(getattr(Config(), section)):
        other = {"model.standardize": False, f"{section}.{field.name}": "another"}
        assert changes(other, Config(), auto="none") != "ours"
