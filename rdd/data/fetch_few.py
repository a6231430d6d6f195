"""Some addresses to their images in one process, by the same fetcher as a whole data set."""

import asyncio
from collections.abc import Sequence

from rdd.config.fetch import FetchConfig
from rdd.data.block_list import BlockList, read_block_list
from rdd.data.fetch import LEASE_SLACK_S, open_fetcher
from rdd.data.host_leases import HostLeases, Leases, NoLimit
from rdd.data.outcomes import Outcome


async def fetch_few(addresses: Sequence[str], config: FetchConfig) -> list[Outcome]:
    """What came of each address, in their order.

    Args:
        addresses: what to fetch.
        config: limits and manners; ``per_host`` holds within this call.
    """
    blocked = read_block_list(config.block_list) if config.block_list else BlockList()
    async with open_fetcher(config, blocked, _leases(config)) as fetcher:
        return list(await asyncio.gather(*map(fetcher.fetch, addresses)))


def _leases(config: FetchConfig) -> Leases:
    if not config.per_host:
        return NoLimit()
    lease_s = config.image_timeout_s + LEASE_SLACK_S
    return HostLeases(per_host=config.per_host, lease_s=lease_s, max_failures=config.host_failures)
