"""A protocol trains and tests its rounds, and goes on where it was killed."""

from pathlib import Path

import pytest
from _small import base_config, write_small_features
from mlflow import MlflowClient
from mlflow.entities import Run

from rdd.config import Config
from rdd.config.parse import override
from rdd.on_ray import protocol
from rdd.on_ray.protocol import run_protocol

CHANGED = "standardize on, hidden 32, lr 0.003"
"""What the settings of these small runs change against ours."""


def test_a_protocol_goes_on_with_the_round_that_it_was_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, output = write_small_features(tmp_path / "features"), tmp_path / "out"
    config = override(base_config(features, tmp_path), {"protocol.output": str(output)})
    train = protocol.run_training

    def killed_in_the_second(one, *, child):
        if one.features.leave_out == ["hard"]:
            raise RuntimeError("killed")
        return train(one, child=child)

    monkeypatch.setattr(protocol, "run_training", killed_in_the_second)
    with pytest.raises(RuntimeError, match="killed"):
        run_protocol(config)
    first = output / "rounds" / "easy" / "metrics.json"
    written = first.stat().st_mtime_ns
    monkeypatch.setattr(protocol, "run_training", train)
    report = run_protocol(config)
    assert first.stat().st_mtime_ns == written
    assert set(report["rounds"]) == {"easy", "hard"}
    assert report["rounds"]["easy"]["auroc"] > 0.7
    assert report["worst"] == "hard"
    assert "worst: hard" in (output / "protocol.md").read_text()
    assert run_protocol(config) == report  # finished: nothing is done again
    parent, rounds = runs_of(config, "round")
    assert (parent.info.run_name, parent.info.status) == ("out", "FINISHED")
    assert set(rounds) == {"easy", "hard"}
    for name, run in rounds.items():
        assert run.info.status == "FINISHED"
        assert (run.data.params["changes"], run.data.params["protocol"]) == (f"leave_out {name}, {CHANGED}", "out")
        auc, interval = report["rounds"][name]["auroc"], report["rounds"][name]["auroc_interval"]
        assert run.data.tags["AUC 95 CI"] == f"{auc:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
        assert run.data.metrics["test/auroc"] > 0.7


def runs_of(config: Config, kind: str) -> tuple[Run, dict[str, Run]]:
    """The protocol's run in MLflow, and those below it of a kind, by name; no run is its neighbour."""
    client = MlflowClient(config.tracking.uri)
    runs = client.search_runs(["1"])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {parent.info.run_id}
    return parent, {run.info.run_name: run for run in below if run.data.tags["rdd.kind"] == kind}


@pytest.mark.slow
def test_a_detector_of_one_set_is_tested_on_others(tmp_path: Path) -> None:
    features, output = write_small_features(tmp_path / "features"), tmp_path / "out"
    easy = str(write_small_features(tmp_path / "easy", seed=1))
    new = str(write_small_features(tmp_path / "new", seed=2, generated=("newer", "newest")))
    asked = {"protocol.kind": "sets", "protocol.tests": [easy, new], "protocol.output": str(output)}
    config = override(base_config(features, tmp_path), asked)
    report = run_protocol(config)
    assert list(report["rounds"]) == [easy, new]
    assert {row["images"] for row in report["rounds"].values()} == {200}  # every image of a set, none of the training set
    assert all(row["auroc"] > 0.7 for row in report["rounds"].values())
    assert report["worst"] in (easy, new)
    assert f"| {easy} | 200 | " in (output / "protocol.md").read_text()
    parent, rounds = runs_of(config, "round")
    assert set(rounds) == {easy, new}
    assert {run.data.params["changes"] for run in rounds.values()} == {CHANGED}
    assert set(runs_of(config, "training")[1]) == {"the detector"}
    assert parent.data.metrics["worst_auroc"] == pytest.approx(report["worst_auroc"])


def test_a_set_of_the_same_records_is_no_test(tmp_path: Path) -> None:
    features = write_small_features(tmp_path / "features")
    other = str(write_small_features(tmp_path / "other"))
    asked = {"protocol.kind": "sets", "protocol.tests": [other], "protocol.output": str(tmp_path / "out")}
    config = override(base_config(features, tmp_path), asked | {"tracking.enabled": False, "train.epochs": 2})
    with pytest.raises(ValueError, match="trained or selected on by this run"):
        run_protocol(config)
