"""When a run on workers is taken for stalled: a trainer of this test's own writes what workers would."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _small import base_config

from rdd.config import Config
from rdd.config.parse import override
from rdd.on_ray import background, train
from rdd.runs.directory import RunDirectory


@pytest.fixture
def config(features: Path, tmp_path: Path, monkeypatch) -> Config:
    monkeypatch.setattr(background, "POLL_S", 0.02)
    return override(base_config(features, tmp_path), {"train.stall_timeout_s": 0.3, "cluster.start_timeout_s": 5.0})


def fit(monkeypatch, config: Config, work: Callable[[RunDirectory], None]) -> list[dict]:
    class Trainer:
        def fit(self) -> None:
            work(run)

    run = RunDirectory(config.train.output)
    monkeypatch.setattr(train, "_trainer", lambda *arguments: Trainer())
    epochs: list[dict] = []
    train.fit_on_workers(config, run, epochs.append)
    return epochs


def test_a_slow_start_and_slow_loading_are_no_stall(monkeypatch, config: Config) -> None:
    def work(run: RunDirectory) -> None:
        time.sleep(0.6)  # processes start and import
        for number in range(4):
            run.save_loading(f"{number} of 4 files of features")
            time.sleep(0.2)
        run._write_note("history", [{"epoch": 1}])

    assert fit(monkeypatch, config, work) == [{"epoch": 1}]


def test_loading_that_stops_is_a_stall(ray_session, monkeypatch, config: Config) -> None:
    def work(run: RunDirectory) -> None:
        run.save_loading("1 of 4 files of features")
        time.sleep(3)

    with pytest.raises(RuntimeError, match=r"no step for 0.3 s after epoch 0, held: CPU .*the same command goes on"):
        fit(monkeypatch, config, work)
