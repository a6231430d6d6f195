"""Work that moves, work that starts slowly, and work that stalls."""

import time

from rdd.progress import StallClock, at_most_every


def test_a_stall_is_counted_from_the_first_change_on() -> None:
    clock = StallClock(stall_timeout_s=0.05, start_timeout_s=60.0)
    clock.observe("where an earlier run stopped")
    time.sleep(0.1)
    assert not clock.observe("where an earlier run stopped")
    assert clock.stalled_s() is None  # its workers start, which may take longer than a stall
    assert clock.observe("loading 1 of 9 files")
    time.sleep(0.1)
    assert clock.stalled_s() == 0.05
    assert clock.observe("loading 2 of 9 files")
    assert clock.stalled_s() is None


def test_what_has_ended_from_outside_may_begin_again() -> None:
    clock = StallClock(stall_timeout_s=0.01, start_timeout_s=0.0)
    clock.observe(0)
    clock.observe(1)
    clock.excuse(0.1)
    clock.excuse(0.0)  # takes nothing back
    time.sleep(0.05)
    assert clock.stalled_s() is None
    time.sleep(0.1)
    assert clock.stalled_s() == 0.01


def test_work_that_never_begins_ends_too() -> None:
    clock = StallClock(stall_timeout_s=0.01, start_timeout_s=0.05)
    clock.observe(None)
    time.sleep(0.02)
    assert clock.stalled_s() is None
    time.sleep(0.05)
    assert clock.stalled_s() == 0.05


def test_calls_are_paced() -> None:
    calls: list[int] = []
    paced = at_most_every(0.05, calls.append)
    paced(1)
    time.sleep(0.06)
    paced(2)
    paced(3)
    assert calls == [2]
