"""Whose turn it is to ask a host."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from rdd.data.host_leases import HOST_DOWN_LEASE, HostLeases, Report

HOST = "a.example"

pytestmark = pytest.mark.timeout(30)


def run(test: Callable[[HostLeases], Awaitable[None]], **options) -> None:
    async def inner() -> None:
        await test(HostLeases(**{"per_host": 2, "lease_s": 60.0, "max_failures": 0} | options))

    asyncio.run(inner())


async def settled(*tasks: asyncio.Task) -> list[bool]:
    for _ in range(5):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


def test_no_more_than_allowed_at_the_same_time_first_come_first_served() -> None:
    async def test(leases: HostLeases) -> None:
        turns = [asyncio.create_task(leases.acquire(HOST)) for _ in range(4)]
        assert await settled(*turns) == [True, True, False, False]
        assert leases.waiting_for() == {HOST: 2}
        assert await leases.acquire("b.example") > 0  # another host is another matter
        leases.release(HOST, turns[1].result(), Report())
        assert await settled(*turns) == [True, True, True, False]
        leases.release(HOST, turns[0].result(), Report())
        assert await settled(*turns) == [True] * 4
        assert len({turn.result() for turn in turns}) == 4

    run(test)


def test_a_lease_that_is_not_given_back_ends_by_itself() -> None:
    async def test(leases: HostLeases) -> None:
        first = await leases.acquire(HOST)
        second = await leases.acquire(HOST)  # waits for the end of the first
        leases.release(HOST, first, Report())  # too late, and without effect on the second
        third = asyncio.create_task(leases.acquire(HOST))
        assert await settled(third) == [False]
        leases.release(HOST, second, Report())
        assert await third > second > first

    run(test, per_host=1, lease_s=0.3)


def test_a_host_that_asks_for_a_pause_is_left_alone_by_everybody() -> None:
    async def test(leases: HostLeases) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        leases.release(HOST, await leases.acquire(HOST), Report(pause_s=0.3, failed=False))
        await asyncio.gather(leases.acquire(HOST), leases.acquire(HOST))
        assert loop.time() - began >= 0.3

    run(test)


def test_a_host_that_never_answers_is_given_up_and_one_answer_begins_anew() -> None:
    async def test(leases: HostLeases) -> None:
        for failed in (True, True, False, True, True, True):
            lease = await leases.acquire(HOST)
            assert lease > 0
            waiting = asyncio.create_task(leases.acquire(HOST))
            await settled(waiting)
            leases.release(HOST, lease, Report(failed=failed))
            if waiting.done() and waiting.result() > 0:
                leases.release(HOST, waiting.result(), Report())
        assert await leases.acquire(HOST) == HOST_DOWN_LEASE
        assert await leases.acquire("b.example") > 0

    run(test, max_failures=3)


def test_those_who_wait_for_a_host_learn_that_it_is_down() -> None:
    async def test(leases: HostLeases) -> None:
        lease = await leases.acquire(HOST)
        waiting = [asyncio.create_task(leases.acquire(HOST)) for _ in range(3)]
        await settled(*waiting)
        leases.release(HOST, lease, Report(pause_s=3600, failed=False, down=True))
        assert [await turn for turn in waiting] == [HOST_DOWN_LEASE] * 3

    run(test, per_host=1)


def test_who_has_gone_holds_nothing() -> None:
    async def test(leases: HostLeases) -> None:
        lease = await leases.acquire(HOST)
        gone, stays = asyncio.create_task(leases.acquire(HOST)), asyncio.create_task(leases.acquire(HOST))
        await settled(gone, stays)
        gone.cancel()
        await settled(gone)
        leases.release(HOST, lease, Report())
        assert await stays > 0
        assert leases.waiting_for() == {}
        leases.release(HOST, stays.result(), Report())
        assert not leases._hosts  # nothing is remembered of a host that all is well with

    run(test, per_host=1)


def test_what_there_is_nothing_to_wait_for_is_had_at_once() -> None:
    async def test(leases: HostLeases) -> None:
        first, second = leases.try_acquire(HOST), leases.try_acquire(HOST)
        assert first is not None
        assert second is not None
        assert leases.try_acquire(HOST) is None
        waiting = asyncio.create_task(leases.acquire(HOST))
        await settled(waiting)
        leases.release(HOST, first, Report())
        assert await settled(waiting) == [True]  # who waits comes first
        assert leases.try_acquire(HOST) is None
        leases.release(HOST, second, Report(pause_s=60, failed=False))
        assert leases.try_acquire(HOST) is None
        assert await leases.acquire("b.example") > 0
        leases.release(HOST, waiting.result(), Report(down=True))
        assert leases.try_acquire(HOST) == HOST_DOWN_LEASE

    run(test)
