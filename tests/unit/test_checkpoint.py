"""Checkpoints: what is damaged or another run's is refused, and they are written beside the next steps."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rdd.run_context import TrainState
from rdd.runs.checkpoint import StateWriter, load_state, save_state
from rdd.runs.directory import RunDirectory


def state_of(epoch: int = 1, *, seconds: float = 0.5) -> TrainState:
    values = {"val/auroc": 0.5, "val/loss": 0.7, "time/epoch_s": seconds}
    history = [{"epoch": number, **values} for number in range(1, epoch + 1)]
    weights = {"w": torch.arange(1000.0)}
    return TrainState(epoch, weights, {"base": {"m": [torch.ones(3)]}}, 0.5, 1, history)


def test_a_checkpoint_holds_the_state(tmp_path: Path) -> None:
    place = str(tmp_path / "a.pt")
    save_state(place, state_of(2))
    read = load_state(place)
    assert torch.equal(read.model["w"], state_of().model["w"])
    assert torch.equal(read.optimizer["base"]["m"][0], torch.ones(3))
    assert read.history == state_of(2).history


@pytest.mark.parametrize("damage", ["half", "empty", "a bit"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "a.pt"
    save_state(str(place), state_of())
    data = bytearray(place.read_bytes())
    if damage == "a bit":
        data[data.index(torch.arange(1000.0).numpy().tobytes()) + 2001] ^= 0x40  # torch.load itself takes it
    place.write_bytes(data[: {"half": len(data) // 2, "empty": 0}.get(damage, len(data))])
    with pytest.raises(RuntimeError, match=r"a\.pt is torn or no checkpoint \(.*\); delete it to begin again"):
        load_state(str(place))


def test_the_best_is_kept_without_the_optimizer_that_nobody_reads(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.save(state_of(), best=True)
    best, last = run.load("best"), run.load("last")
    assert best is not None
    assert last is not None
    assert best.optimizer == {}
    assert torch.equal(best.model["w"], last.model["w"])
    assert last.optimizer


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, name: str) -> None:
    run, other = RunDirectory(str(tmp_path / "run")), RunDirectory(str(tmp_path / "other"))
    run.save(state_of(2), best=True)
    other.save(state_of(2, seconds=0.25), best=True)
    Path(run.checkpoint(name)).write_bytes(Path(other.checkpoint(name)).read_bytes())
    with pytest.raises(RuntimeError, match=rf"{name}\.pt is of another run: .*; delete .*checkpoints to train this run again"):
        run.load_both()


def test_checkpoints_of_two_runs_are_refused_without_a_history(tmp_path: Path) -> None:
    run, other = RunDirectory(str(tmp_path / "run")), RunDirectory(str(tmp_path / "other"))
    run.save(state_of(2), best=True)
    other.save(state_of(2, seconds=0.25), best=True)
    Path(run.checkpoint("best")).write_bytes(Path(other.checkpoint("best")).read_bytes())
    (tmp_path / "run" / "checkpoints" / "history.json").unlink()
    with pytest.raises(RuntimeError, match="last.pt and best.pt in .*checkpoints are of two runs; delete"):
        run.load_both()


def test_a_run_does_not_go_on_without_its_best(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    assert run.load_both() == (None, None)
    run.save(state_of(), best=True)
    Path(run.checkpoint("best")).unlink()
    with pytest.raises(RuntimeError, match=r"best\.pt is missing, .*; delete .*checkpoints to train this run again"):
        run.load_both()


def test_a_kill_before_the_first_last_begins_again(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    save_state(run.checkpoint("best"), replace(state_of(), optimizer={}))
    assert run.load_both()[0] is None


def test_a_state_is_copied_and_written_while_training_goes_on() -> None:
    may_write, written = threading.Event(), []

    def write(state: TrainState, best: bool) -> None:
        assert may_write.wait(30)
        written.append((state, best))

    writer, state = StateWriter(write), state_of()
    writer.save(state, best=True)  # returns although nothing is written
    state.model["w"].zero_()
    state.optimizer["base"]["m"][0].zero_()
    assert not written
    may_write.set()
    writer.wait()
    ((kept, best),) = written
    assert best
    assert torch.equal(kept.model["w"], torch.arange(1000.0))
    assert torch.equal(kept.optimizer["base"]["m"][0], torch.ones(3))


def test_a_state_that_can_not_be_written_ends_the_run() -> None:
    def write(state: TrainState, best: bool) -> None:
        raise OSError(28, "No space left on device")

    writer = StateWriter(write)
    writer.save(state_of(), best=False)
    with pytest.raises(OSError, match="No space left"):
        writer.save(state_of(2), best=False)
    writer.wait()  # said once


def within_epoch_1() -> TrainState:
    return replace(TrainState.at_start(), model=state_of().model, step=7, sums={"loss": torch.tensor(1.5)}, seconds=2.0)


def test_a_checkpoint_within_the_first_epoch_has_no_best_beside_it(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.save(within_epoch_1(), best=False)
    last, best = run.load_both()
    assert best is None
    assert last is not None
    assert (last.epoch, last.step, last.sums, last.seconds) == (0, 7, {"loss": torch.tensor(1.5)}, 2.0)


def test_a_kill_between_the_first_best_and_its_last_goes_on_within_the_epoch(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    run.save(within_epoch_1(), best=False)
    save_state(run.checkpoint("best"), replace(state_of(), optimizer={}))
    last, _ = run.load_both()
    assert last is not None
    assert last.step == 7


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(tmp_path: Path) -> None:
    later = {"step", "sums", "seconds"}
    torch.save({name: value for name, value in vars(state_of()).items() if name not in later}, tmp_path / "a.pt")
    read = load_state(str(tmp_path / "a.pt"))
    assert (read.epoch, read.step, read.sums) == (1, 0, {})
