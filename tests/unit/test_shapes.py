"""Files of JSON that hold something else than they must are refused by name."""

from pathlib import Path
from typing import Any

import pytest

from rdd.config.stages import EVALUATE, TRAIN
from rdd.runs.directory import RunDirectory
from rdd.runs.sweep import SweepDirectory
from rdd.shapes import NUMBER, described, has_shape


@pytest.mark.parametrize(
    ("value", "shape", "fits"),
    [
        (3, int, True),
        (3.5, int, False),
        (3, NUMBER, True),
        (True, int, False),
        (True, NUMBER, False),
        (True, bool, True),
        (None, dict, False),
        ({}, {"a": int}, False),
        ({"a": 1, "b": None}, {"a": int}, True),
        ({"a": {"b": "x"}}, {"a": {"b": int}}, False),
        ([], [int], True),
        ([1, "x"], [int], False),
        (None, (list, type(None)), True),
    ],
)
def test_shapes(value: Any, shape: Any, fits: bool) -> None:
    assert has_shape(value, shape) == fits


def test_a_shape_in_words() -> None:
    assert described([{"epoch": int, "val/auroc": NUMBER}]) == "a list, each of a mapping with epoch, val/auroc"
    assert described(NUMBER) == "a number"


WRONG = ["null", "3", "true", '"x"', "[1]", "{}", "[{}]", "1e400", "[" * 100_000]


@pytest.mark.parametrize("name", ["history", "logged", "features", "failure", "loading", "progress"])
@pytest.mark.parametrize("text", WRONG)
def test_a_note_of_a_run_that_is_something_else_is_refused(tmp_path: Path, name: str, text: str) -> None:
    right = {"logged": "3", "failure": '"x"', "loading": '"x"'}
    if text == right.get(name):
        return
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / f"{name}.json").write_text(text)
    run = RunDirectory(str(tmp_path))
    read = {"history": run.history, "logged": run.logged, "failure": run.failure, "loading": run.notes, "progress": run.notes}
    with pytest.raises(RuntimeError, match=rf"{name}\.json (must hold|is torn or no JSON).*; delete .* to train this run"):
        read.get(name, lambda: run.check_features("x"))()


@pytest.mark.parametrize("text", WRONG)
def test_a_note_of_a_trial_that_is_something_else_is_refused(tmp_path: Path, text: str) -> None:
    trial = tmp_path / "trials" / "a"
    trial.mkdir(parents=True)
    (trial / "ended.json").write_text(text)
    with pytest.raises(RuntimeError, match=r"ended\.json .*; delete the trial's directory to begin it again"):
        SweepDirectory(str(tmp_path)).ended("a")


@pytest.mark.parametrize("text", [*WRONG, '{"nope": 1}'])
def test_what_was_drawn_for_a_trial_names_what_the_sweep_draws(tmp_path: Path, text: str) -> None:
    trial = tmp_path / "trials" / "a"
    trial.mkdir(parents=True)
    (trial / "trial.json").write_text(text)
    with pytest.raises(RuntimeError, match=r"trial\.json .*; delete the trial's directory to begin it again"):
        SweepDirectory(str(tmp_path)).values("a", ["loss.alpha"])


@pytest.mark.parametrize("stage", [TRAIN, EVALUATE], ids=lambda stage: stage.name)
def test_what_jobs_read_of_a_finished_stage_has_a_shape(stage: Any) -> None:
    assert not has_shape({"test": {}}, stage.result_shape)
    assert not has_shape([], stage.result_shape)
