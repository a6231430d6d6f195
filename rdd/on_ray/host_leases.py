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
"""Calls that wait in a shard. Others would wait behind them, those that give a lease back among them, so there is no limit."""


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

    async def release(self, host: str, lease: int, report: Report) -> None:
        """Give a lease back."""
        self._leases.release(host, lease, report)

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
        self._shards, self._per_host = shards, per_host
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
            lease: int = await self._shard(host).acquire.remote(host)
        except BaseException:
            self._leave(host, has_place=True)
            raise
        if lease == HOST_DOWN_LEASE:
            self._leave(host, has_place=True)
        return lease

    def release(self, host: str, lease: int, report: Report) -> None:
        """Give a lease back; nobody waits for it."""
        self._shard(host).release.remote(host, lease, report)
        self._leave(host, has_place=True)

    def _shard(self, host: str) -> "ray.actor.ActorHandle":
        return self._shards[hash_bytes(host.encode()) % len(self._shards)]

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
