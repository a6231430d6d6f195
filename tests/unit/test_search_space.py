import pytest

from rdd.config import Config
from rdd.config.parse import override
from rdd.runs.search_space import read_space, trials_of


def with_space(space: dict, **options) -> Config:
    return override(Config(), {"tune.space": space} | {f"tune.{name}": value for name, value in options.items()})


def test_domains_are_read_and_counted() -> None:
    config = with_space(
        {"loss.alpha": {"uniform": [0.1, 1.0]}, "loss.p": {"grid": [2.0, 3.0]}, "sam.enabled": {"choice": [True]}}
    )
    space = read_space(config)
    assert (space["loss.alpha"].kind, space["loss.alpha"].values) == ("uniform", (0.1, 1.0))
    assert trials_of(config, space) == 32
    grid = with_space({"loss.p": {"grid": [2.0, 3.0]}, "loss.gamma": {"choice": [0.1, 0.5, 0.9]}}, search="grid")
    assert trials_of(grid, read_space(grid)) == 6


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ({}, {}, "tune.space must name at least one path"),
        ({"loss.alhpa": {"uniform": [0.1, 1]}}, {}, "unknown key 'loss.alhpa'.*did you mean loss.alpha"),
        ({"loss.alpha": {"uniform": [0.1, 1.5]}}, {}, r"loss.alpha must lie in \(0, 1\], got 1.5"),
        ({"loss.alpha": {"uniform": [0.0, 1.0]}}, {}, r"loss.alpha must lie in \(0, 1\], got 0.0"),
        ({"loss.alpha": {"uniform": [0.5, 0.1]}}, {}, "low < high"),
        ({"sam.rho": {"loguniform": [0, 1]}}, {}, "0 < low < high"),
        ({"loss.alpha": {"normal": [0.1, 1]}}, {}, "one of uniform, loguniform, choice, grid"),
        ({"loss.alpha": [0.1, 1]}, {}, "one of uniform, loguniform, choice, grid"),
        ({"loss.alpha": {"choice": []}}, {}, "a list of values"),
        ({"loss.alpha": {"uniform": [0.1, 1]}}, {"search": "grid"}, "must hold only choice and grid"),
        ({"train.batch_size": {"uniform": [64, 256]}}, {}, "must be choice or grid"),
        ({"features.split_seed": {"choice": [1, 2]}}, {}, "but for the split"),
        ({"train.epochs": {"choice": [1, 2]}}, {}, "but for the split"),
        ({"tune.num_trials": {"choice": [1, 2]}}, {}, "may hold paths of"),
        ({"loss.p": {"grid": [2.0]}}, {"search": "optuna"}, "must hold no grid"),
    ],
)
def test_what_a_space_refuses(space: dict, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_space(with_space(space, **options))
