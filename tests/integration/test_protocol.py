"""A protocol trains and tests its rounds, and goes on where it was killed."""

from pathlib import Path

import pytest
from _small import base_config, write_small_features

from rdd.config.parse import override
from rdd.on_ray import protocol
from rdd.on_ray.protocol import run_protocol


def test_a_protocol_goes_on_with_the_round_that_it_was_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features, output = write_small_features(tmp_path / "features"), tmp_path / "out"
    asked = {"protocol.output": str(output), "tracking.enabled": False}
    config = override(base_config(features, tmp_path), asked)
    train = protocol.run_training

    def killed_in_the_second(one):
        if one.features.leave_out == ["hard"]:
            raise RuntimeError("killed")
        return train(one)

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


def test_a_detector_of_one_set_is_tested_on_another(tmp_path: Path) -> None:
    features = write_small_features(tmp_path / "features")
    other = str(write_small_features(tmp_path / "other"))
    asked = {"protocol.kind": "sets", "protocol.tests": [other], "protocol.output": str(tmp_path / "out")}
    config = override(base_config(features, tmp_path), asked | {"tracking.enabled": False, "train.epochs": 2})
    with pytest.raises(ValueError, match="trained or selected on by this run"):
        run_protocol(config)  # the other set is of the same records
