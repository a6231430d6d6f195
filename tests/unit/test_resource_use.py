import mmap
import threading
import time

import pytest
import torch

from rdd import resource_use
from rdd.resource_use import BusyClock, Use, busy_share, gpu_peak_gib, memory_gib, peak_gib
from rdd.step_clock import StepClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that stand still until a test moves them."""
    seconds = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])
    return seconds


def test_seconds_of_threads_at_work_at_the_same_time_are_counted_once(now: list[float]) -> None:
    clock = BusyClock()
    now[0] += 1
    with clock.at_work():
        now[0] += 2
        with clock.at_work():
            now[0] += 3
        assert clock.use() == Use(6.0, 5.0, None)  # what is under way counts
        now[0] += 4
    now[0] += 5
    assert clock.use() == Use(15.0, 9.0, None)


def test_work_that_fails_is_over(now: list[float]) -> None:
    clock = BusyClock()
    with pytest.raises(KeyError), clock.at_work():
        now[0] += 1
        raise KeyError
    now[0] += 1
    assert clock.use() == Use(2.0, 1.0, None)


def test_a_clock_is_for_many_threads() -> None:
    clock = BusyClock()
    both = threading.Barrier(2)

    def work() -> None:
        with clock.at_work():
            both.wait(10)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    use = clock.use()
    assert 0 < use.busy_s <= use.seconds


def test_a_share_is_that_of_the_time_between_two_looks() -> None:
    before = {"a": Use(10.0, 10.0, None), "ended": Use(50.0, 1.0, None)}
    now = {"a": Use(14.0, 11.0, None), "b": Use(2.0, 2.0, None), "ended": Use(50.0, 1.0, None)}
    assert busy_share(now, before) == 0.5  # (1 + 2) / (4 + 2): who has ended counts no more
    assert busy_share(before, before) is None
    assert busy_share({}, {}) is None


def test_memory_is_that_of_this_process() -> None:
    before = memory_gib()
    with mmap.mmap(-1, 256 * 2**20) as ballast:  # malloc might give what it had before
        ballast.write(b"x" * len(ballast))
        assert memory_gib() - before >= 0.2
        assert peak_gib() >= memory_gib() - 0.01


def test_without_a_gpu_its_memory_is_not_zero_but_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        assert gpu_peak_gib() is None
    monkeypatch.delitem(resource_use.sys.modules, "torch")
    assert gpu_peak_gib() is None


def test_steps_are_a_share_of_their_epoch(now: list[float]) -> None:
    clock = StepClock(torch.device("cpu"))
    for _ in range(3):
        now[0] += 1  # waiting for features
        with clock.step():
            now[0] += 2
    used = clock.used(9.0)
    assert used.pop("system/busy_share") == pytest.approx(2 / 3)
    assert used == {} or torch.cuda.is_available()
