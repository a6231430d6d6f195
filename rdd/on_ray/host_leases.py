"""Leases of hosts over a whole cluster: each host's book is kept by one of a few actors, chosen by the hash of its name."""

import asyncio
from collections.abc import Sequence

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rdd.config import FetchConfig
from rdd.data.fetch import LEASE_SLACK_S
from rdd.data.host_leases import HOST_DOWN_LEASE, HostLeases, Report
from rdd.hashing import hash_bytes

_MOST_SHARDS = 16
_CALLS_AT_ONCE = 100_000
"""Calls that wait in a shard. Others would wait behind them, those that give leases back among them, so there is no limit."""


class LeaseShard:
    """The books of a part of the hosts, as an asynchronous actor.

    Args:
        per_host: leases of one host at the same time.
        lease_s: seconds after which a lease ends by itself.
        max_failures: requests in a row without any answer after which a host is down; 0 for never.
    """

    def __init__(self, per_host: int, lease_s: float, max_failures: int) -> None:
        self._leases = HostLeases(per_host=per_host, lease_s=lease_s, max_failures=max_failures)

    async def acquire(self, host: str) -> int:
        """Wait for a lease."""
        return await self._leases.acquire(host)

    async def exchange(self, returned: list[tuple[str, int, Report]], wanted: list[str]) -> list[int | None]:
        """Give leases back, and take those that there is nothing to wait for; None in place of the others."""
        for host, lease, report in returned:
            self._leases.release(host, lease, report)
        return [self._leases.try_acquire(host) for host in wanted]

    async def waiting_for(self) -> dict[str, int]:
        """How many wait for each host."""
        return self._leases.waiting_for()


def start_shards(config: FetchConfig) -> list["ray.actor.ActorHandle"]:
    """Start the actors, which reserve no CPU, on the driver's node, with which alone they die; none where there is no limit."""
    if config.per_host == 0:
        return []
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here, "max_concurrency": _CALLS_AT_ONCE}
    actor = ray.remote(max_restarts=-1, max_task_retries=-1, **options)(LeaseShard)
    lease_s = config.image_timeout_s + LEASE_SLACK_S
    shards = min(config.num_workers, _MOST_SHARDS)
    return [actor.remote(config.per_host, lease_s, config.host_failures) for _ in range(shards)]


class SharedLeases:
    """Leases as one worker asks for them.

    Of one host it asks for no more at the same time than it could ever hold, so a shard's queue holds workers and not images.

    Args:
        shards: of :func:`start_shards`, at least one.
        per_host: leases of one host at the same time.
    """

    def __init__(self, shards: Sequence["ray.actor.ActorHandle"], per_host: int) -> None:
        self._lines = [_Line(shard) for shard in shards]
        self._per_host = per_host
        self._asking: dict[str, _Asking] = {}

    async def acquire(self, host: str) -> int:
        """Wait for a lease; ``HOST_DOWN_LEASE`` for a host that is not asked any more."""
        asking = self._asking.setdefault(host, _Asking(self._per_host))
        asking.users += 1
        try:
            await asking.places.acquire()
        except BaseException:
            self._leave(host)
            raise
        try:
            lease = await self._line(host).acquire(host)
        except BaseException:
            self._leave(host, has_place=True)
            raise
        if lease == HOST_DOWN_LEASE:
            self._leave(host, has_place=True)
        return lease

    def release(self, host: str, lease: int, report: Report) -> None:
        """Give a lease back; nobody waits for it."""
        self._line(host).release(host, lease, report)
        self._leave(host, has_place=True)

    def _line(self, host: str) -> "_Line":
        return self._lines[hash_bytes(host.encode()) % len(self._lines)]

    def _leave(self, host: str, *, has_place: bool = False) -> None:
        asking = self._asking[host]
        if has_place:
            asking.places.release()
        asking.users -= 1
        if not asking.users:
            del self._asking[host]


class _Asking:
    """Those of one worker that ask for a host."""

    def __init__(self, per_host: int) -> None:
        self.places = asyncio.Semaphore(per_host)
        self.users = 0


class _Line:
    """The line to one shard: what is wanted and given back while a call is on its way goes into the next one.

    A call costs a millisecond of several processes, so two of them an image would be most of its cost.
    """

    def __init__(self, shard: "ray.actor.ActorHandle") -> None:
        self._shard = shard
        self._wanted: list[tuple[str, asyncio.Future[int | None]]] = []
        self._returned: list[tuple[str, int, Report]] = []
        self._talking: asyncio.Task[None] | None = None

    async def acquire(self, host: str) -> int:
        """A lease at once, or by a call of its own that waits for it."""
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._wanted.append((host, answer))
        self._talk()
        lease = await answer
        return await self._shard.acquire.remote(host) if lease is None else lease

    def release(self, host: str, lease: int, report: Report) -> None:
        """Give a lease back with the next call."""
        self._returned.append((host, lease, report))
        self._talk()

    def _talk(self) -> None:
        if self._talking is None or self._talking.done():
            self._talking = asyncio.create_task(self._exchange())

    async def _exchange(self) -> None:
        while self._wanted or self._returned:
            wanted, returned = self._wanted, self._returned
            self._wanted, self._returned = [], []
            try:
                leases = await self._shard.exchange.remote(returned, [host for host, _ in wanted])
            except Exception as error:  # those who wait are told
                for _, answer in wanted:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (host, answer), lease in zip(wanted, leases, strict=True):
                if not answer.done():
                    answer.set_result(lease)
                elif lease is not None:  # whoever wanted it has gone
                    self._returned.append((host, lease, Report()))
