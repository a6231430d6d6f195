"""What a sweep's driver asks of the storage: something for each trial, nothing for those that have ended."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rdd.config import Config
from rdd.on_ray.node_wait import NodeWait
from rdd.on_ray.run_monitor import RunMonitor
from rdd.on_ray.trials import TrialEvent, TrialEvents, Trials, new_events
from rdd.runs.sweep import SweepDirectory, rank_of
from rdd.tracking.tracker import NullTracker

KEEP = 3


class Room(NodeWait):
    """Nodes enough, without a Ray to ask."""

    def changed(self) -> bool:
        return False


ROOM = Room({"CPU": 1}, 1, what="a trial")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """Calls to the file system, each of which is a request to an object store."""
    counted: Counter = Counter()

    def counting(name: str) -> Callable:
        original = getattr(MemoryFileSystem, name)

        def call(self, *args, **options):
            counted[name] += 1
            return original(self, *args, **options)

        return call

    for name in ("info", "open", "ls", "find", "rm", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, name, counting(name))
    yield counted
    MemoryFileSystem.store.clear()


def epoch_of(number: int) -> dict[str, float]:
    return {"epoch": 1, "val/auroc": 0.5 + number % 97 / 1000, "val/loss": 0.5, "val/log_loss": 0.1 + number / 1e4}


def leave_trial(sweep: SweepDirectory, number: int) -> tuple[str, dict[str, float]]:
    """What the process of a trial leaves."""
    name, values = f"trial-{number:05d}", {"loss.alpha": number / 1e4}
    sweep.start(name, values)
    run = sweep.trial(name)
    run._write_note("history", [epoch_of(number)])
    for checkpoint in ("best", "last"):
        MemoryFileSystem().pipe_file(run.checkpoint(checkpoint).removeprefix("memory:/"), b"weights")
    return name, values


def trials_in(sweep: SweepDirectory, monitor: RunMonitor) -> Trials:
    return Trials(sweep, monitor, params=dict, drawn=["loss.alpha"], epochs=1, keep=KEEP)


@pytest.mark.parametrize("number", [40, 160])
def test_a_trial_costs_requests_when_it_starts_and_ends_and_none_afterwards(requests: Counter, number: int) -> None:
    sweep = SweepDirectory(f"memory://sweep-{number}")
    with RunMonitor(NullTracker(), "trial", Config(), ROOM) as monitor:
        trials = trials_in(sweep, monitor)
        drawn = [leave_trial(sweep, one) for one in range(number)]
        requests.clear()
        for name, values in drawn:
            trials.take([TrialEvent(name, values, ended=False)])
            monitor.poll()  # it runs
            trials.take([TrialEvent(name, values, ended=True)])
        assert requests.total() <= 30 * number, requests
        requests.clear()
        for _ in range(10):
            trials.take([])
            monitor.poll()
        assert requests.total() == 0
    best = sorted(trials.outcomes.values(), key=rank_of)[:KEEP]
    kept = {path.split("/")[-3] for path in MemoryFileSystem.store if path.endswith(".pt")}
    assert kept == {trial.name for trial in best}


def test_a_sweep_that_goes_on_takes_up_each_trial_that_has_ended_once(requests: Counter) -> None:
    sweep = SweepDirectory("memory://goes-on")
    drawn = [leave_trial(sweep, one) for one in range(30)]
    for name, _ in drawn[:20]:
        sweep.end(name, {"score": 0.5, "epoch": 1})
    requests.clear()
    with RunMonitor(NullTracker(), "trial", Config(), ROOM) as monitor:
        trials = trials_in(sweep, monitor)
        trials.recall()
        assert sorted(trials.outcomes) == [name for name, _ in drawn[:20]]
        assert requests.total() <= 50 * 20
        before = requests.total()
        trials.recall()
        assert requests.total() - before <= 5 + 31  # one listing
    kept = {path.split("/")[-3] for path in MemoryFileSystem.store if path.endswith(".pt")}
    assert len(kept & {name for name, _ in drawn[:20]}) == KEEP


def test_a_trial_that_ray_tune_does_not_count_is_left_out(requests: Counter) -> None:
    sweep, monitor = SweepDirectory("memory://not-counted"), Told()
    (name, _), (lost, _) = (leave_trial(sweep, one) for one in (1, 2))
    for one in (name, lost):
        sweep.end(one, {"score": 0.5, "epoch": 1})
    trials = Trials(sweep, monitor, params=dict, drawn=["loss.alpha"], epochs=1, keep=KEEP)
    trials.recall()
    trials.leave_out(lost)
    trials.end(TrialEvent(name, {}, ended=True))
    assert monitor.ended == [(lost, "KILLED"), (name, "FINISHED")]
    assert trials.outcomes.keys() == {name}
    assert sweep.names() == [name]


class Told:
    """A monitor that remembers how runs have ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def add(self, *run: object) -> None:
        """Nothing."""

    def finish(self, name: str, *, status: str, **more: object) -> None:
        self.ended.append((name, status))


def test_what_ray_tune_says_comes_out_in_order() -> None:
    class OfRay:
        trial_id, config = "a", {"loss.alpha": 0.5}

        def get_pickled_error(self) -> Exception:
            return ValueError("no such thing")

    new_events()
    events = TrialEvents()
    events.on_trial_start(0, [], OfRay())
    events.on_trial_error(0, [], OfRay())
    started, ended = new_events()
    assert (started.name, started.ended, ended.ended, ended.error) == ("a", False, True, "no such thing")
    assert new_events() == []
