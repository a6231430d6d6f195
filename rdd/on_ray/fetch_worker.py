"""The process that fetches: an asynchronous actor that fills a few files of the table at the same time."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import pyarrow as pa
import ray

from rdd import storage
from rdd.config import FetchConfig
from rdd.data.block_list import BlockList
from rdd.data.fetch import Fetcher, open_fetcher
from rdd.data.fetch_part import fetch_rows, wanted_rows
from rdd.data.fetch_whole import Change, apply_change
from rdd.data.fetched import Part, commit, read_part, write_part
from rdd.data.host_leases import NoLimit
from rdd.data.outcomes import Outcome
from rdd.on_ray.host_leases import SharedLeases
from rdd.schema import STATUS_OK


class FetchWorker:
    """Fetches files of the table; all of them share its connections and its places.

    Args:
        config: limits and manners.
        output: the directory.
        blocked: what is never asked for and never kept.
        shards: actors that keep the leases of hosts; none for no limit.
    """

    def __init__(self, config: FetchConfig, output: str, blocked: BlockList, shards: Sequence["ray.actor.ActorHandle"]) -> None:
        self._config, self._output, self._blocked = config, output, blocked
        self._leases = SharedLeases(shards, config.per_host) if shards else NoLimit()
        self._opening = asyncio.Lock()
        self._fetcher: Fetcher | None = None
        self._open = contextlib.AsyncExitStack()
        self._asked = 0
        self._failed = 0
        self._written = 0

    async def fetch(self, part: Part, addresses: pa.Table, round_number: int) -> None:
        """Fetch the records of a file and commit it.

        Args:
            part: which file.
            addresses: ``schema.ADDRESSES`` of its records.
            round_number: 0 for the first; in a further one what failed and may pass is asked for again.
        """
        fetcher = await self._opened()
        before = await asyncio.to_thread(self._before, part) if round_number else None
        if before is None or wanted_rows(addresses, before["status"]):
            if before is not None:
                before = await asyncio.to_thread(read_part, self._output, part)
            table = await fetch_rows(addresses, before, fetcher, self._count)
            await asyncio.to_thread(write_part, self._output, part, table)
        await asyncio.to_thread(commit, self._output, part, round_number)
        self._written += 1

    def _before(self, part: Part) -> pa.Table | None:
        """What came of the records of a file in an earlier round; None where the file is gone."""
        return read_part(self._output, part, ["status"]) if storage.exists(part.path(self._output)) else None

    async def change(self, parts: Mapping[int, Part], number: int, change: Change, placeholders: pa.Array) -> None:
        """Do in one file what could be said only when all were there."""
        await asyncio.to_thread(apply_change, self._output, parts, number, change, placeholders, self._blocked)
        self._written += 1

    async def progress(self) -> tuple[int, int, int, str]:
        """Images asked for, those of them that failed, and files written, since this process has begun, and its node's id."""
        return self._asked, self._failed, self._written, ray.get_runtime_context().get_node_id()

    async def _opened(self) -> Fetcher:
        async with self._opening:
            if self._fetcher is None:
                opened = open_fetcher(self._config, self._blocked, self._leases)
                self._fetcher = await self._open.enter_async_context(opened)
            return self._fetcher

    def _count(self, outcome: Outcome) -> None:
        self._asked += 1
        self._failed += outcome.status != STATUS_OK


def start_workers(
    config: FetchConfig, output: str, blocked: "ray.ObjectRef[BlockList]", shards: Sequence["ray.actor.ActorHandle"]
) -> list["ray.actor.ActorHandle"]:
    """Start the workers, spread over the nodes; one that dies is started anew and begins its files again.

    Args:
        config: limits and manners.
        output: the directory.
        blocked: the block list, put once for all; whoever calls holds it while they work, since a worker that is started anew
            takes it again.
        shards: actors that keep the leases of hosts.
    """
    actor = ray.remote(
        num_cpus=config.cpus_per_worker,
        scheduling_strategy="SPREAD",
        max_restarts=-1,
        max_task_retries=3,  # what kills its worker four times is no accident
        max_concurrency=config.files_per_worker + 2,  # and answers beside
    )(FetchWorker)
    return [actor.remote(config, output, blocked, shards) for _ in range(config.num_workers)]
