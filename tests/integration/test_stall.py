"""When a run on workers is taken for stalled: a trainer of this test's own writes what workers would."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _small import base_config

from rdd import progress
from rdd.config import Config
from rdd.config.parse import override
from rdd.on_ray import background, embedding_progress, node_wait, train
from rdd.on_ray.draining import DrainWatch
from rdd.on_ray.node_wait import NodeWait
from rdd.on_ray.run_monitor import RunMonitor
from rdd.runs.directory import RunDirectory
from rdd.tracking.tracker import NullTracker


@pytest.fixture
def config(features: Path, tmp_path: Path, monkeypatch) -> Config:
    monkeypatch.setattr(background, "POLL_S", 0.02)
    return override(base_config(features, tmp_path), {"train.stall_timeout_s": 1.0, "cluster.start_timeout_s": 20.0})


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
        time.sleep(1.5)  # processes start and import, longer than a stall
        for number in range(4):  # so does loading, altogether
            run.save_loading(f"{number} of 4 files of features")
            time.sleep(0.4)
        run._write_note("history", [epoch])

    epoch = {"epoch": 1, "val/auroc": 0.5, "val/loss": 0.5}
    assert fit(monkeypatch, config, work) == [epoch]


def test_loading_that_stops_is_a_stall(ray_session, monkeypatch, config: Config) -> None:
    def work(run: RunDirectory) -> None:
        run.save_loading("1 of 4 files of features")
        time.sleep(3)

    with pytest.raises(RuntimeError, match=r"no step for 1 s after epoch 0, held: CPU .*the same command goes on"):
        fit(monkeypatch, config, work)


def test_a_queued_run_is_no_stall_when_the_run_before_it_has_ended(monkeypatch, config: Config, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    config = override(config, {"train.stall_timeout_s": 600.0, "cluster.start_timeout_s": 1800.0})
    monkeypatch.setattr(node_wait, "places", lambda bundle: 1)
    with RunMonitor(NullTracker(), "seed", config, NodeWait({"CPU": 1}, 1, what="a run")) as monitor:
        running, queued = RunDirectory(str(tmp_path / "a")), RunDirectory(str(tmp_path / "b"))
        monitor.add("a", running, {})
        monitor.add("b", queued, {})
        for step in range(8):
            now[0] += 300
            running.save_progress(1, step, 8)
            monitor.poll()
        monitor.finish("a", status="FINISHED", metrics={}, tags={}, epochs=1)
        now[0] += 700  # its process starts, and loads
        monitor.poll()
        queued.save_loading("1 of 2 files of features")
        monitor.poll()
        now[0] += 601
        with pytest.raises(RuntimeError, match="no step of b for 600 s"):
            monitor.poll()


def test_a_wait_for_nodes_is_no_stall_of_a_sweep_and_ends_as_long_as_a_start_may_take(
    ray_session, monkeypatch, config: Config, tmp_path: Path
) -> None:
    now, room = [0.0], [1]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(node_wait, "places", lambda bundle: room[0])
    config = override(config, {"train.stall_timeout_s": 600.0, "cluster.start_timeout_s": 1800.0})
    with RunMonitor(NullTracker(), "trial", config, NodeWait({"CPU": 2}, 1, what="a trial")) as monitor:
        trial = RunDirectory(str(tmp_path / "a"))
        monitor.add("a", trial, {})
        for room[0] in (1, 0, 1, 0):  # its node goes, is given anew, and goes again
            trial.save_progress(1, int(now[0]), 10_000)
            monitor.poll()
            now[0] += 550
            monitor.poll()
        now[0] += 1700
        monitor.poll()
        now[0] += 101
        with pytest.raises(
            RuntimeError, match="a trial waits for nodes: it needs 1 times 2 CPU, and .* 0, for 1800 s now, held"
        ):
            monitor.poll()


def test_an_encoder_that_loads_slowly_is_no_stall(ray_session, monkeypatch) -> None:
    monkeypatch.setattr(background, "POLL_S", 0.02)
    counts = iter([{"read": 8}] * 60 + [{"read": 8, "load": 1}, {"read": 8, "load": 1, "encode": 8}])
    last = {"read": 8, "load": 1, "encode": 8}
    monkeypatch.setattr(embedding_progress, "_counts", lambda ledger, before: next(counts, last))
    clock = progress.StallClock(stall_timeout_s=0.6, start_timeout_s=60.0)
    watched = {"clock": clock, "drains": DrainWatch(60.0)}
    embedding_progress.run_watched(
        lambda: time.sleep(1.4), None, steps=("read", "decode", "encode"), total=8, done=0, **watched
    )
