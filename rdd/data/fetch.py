"""One address to the image it serves, or the reason why not: polite, bounded, and to public addresses alone."""

import asyncio
import email.utils
import gc
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from rdd import __version__
from rdd.config.fetch import FetchConfig
from rdd.data.addresses import guarded_sockets, is_odd_notation
from rdd.data.block_list import BlockList
from rdd.data.host_leases import HOST_DOWN_LEASE, Leases, Report
from rdd.data.image_header import image_outcome
from rdd.data.outcomes import BLOCKED, HOST_DOWN, REFUSED_ADDRESS, Outcome, outcome_of
from rdd.data.robots import AGENT, forbidding_directive
from rdd.hashing import sha256_bytes

LEASE_SLACK_S = 30.0
"""A lease lasts so much longer than one image may take: for the way of messages, and the wait for a place of the worker."""

_REDIRECTS = (301, 302, 303, 307, 308)
_DNS_CACHE_S = 300
_LEAST_S = 0.001
_NEW_OBJECTS = 10_000
"""Made before a search for cycles, which looks at every waiting request; at Python's own 700 it takes a fifth of the CPU."""
_NOTHING_ASKED = Report()


def user_agent(config: FetchConfig) -> str:
    """How requests introduce themselves."""
    return f"{AGENT}/{__version__} (+{config.contact})"


@asynccontextmanager
async def open_fetcher(
    config: FetchConfig, blocked: BlockList, leases: Leases, *, resolver: AbstractResolver | None = None
) -> AsyncIterator["Fetcher"]:
    """A fetcher with its connections; without cookies, credentials, proxies, or anything from the environment.

    While it is open, Python searches the process less often for cycles of garbage.

    Args:
        config: limits and manners.
        blocked: what is never asked for and never kept.
        leases: whose turn it is, by host.
        resolver: of names, by default aiodns.
    """
    if resolver is None:
        resolver = aiohttp.AsyncResolver(timeout=config.connect_timeout_s / 2, tries=2)
    connector = aiohttp.TCPConnector(
        limit=0,  # the fetcher's own places and the leases bound it
        force_close=config.per_host > 0,  # a connection that is kept open would count on the host's side
        resolver=resolver,
        ttl_dns_cache=_DNS_CACHE_S,
        socket_factory=guarded_sockets(allow_loopback=config.allow_loopback),
    )
    session = aiohttp.ClientSession(
        connector=connector,
        headers={"User-Agent": user_agent(config), "Accept": "image/*,*/*;q=0.1", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,  # what is packed all the same is not unpacked
    )
    async with session:
        try:
            with _rare_searches_for_cycles():
                yield Fetcher(config, blocked, leases, session)
        finally:
            await resolver.close()


@contextmanager
def _rare_searches_for_cycles() -> Iterator[None]:
    """Let Python search this process for cycles of garbage less often, unless it searches as rarely or never already."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], _NEW_OBJECTS) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Fetcher:
    """Fetches many addresses at the same time.

    Args:
        config: limits and manners.
        blocked: what is never asked for and never kept.
        leases: whose turn it is, by host.
        session: of :func:`open_fetcher`.
    """

    def __init__(self, config: FetchConfig, blocked: BlockList, leases: Leases, session: aiohttp.ClientSession) -> None:
        self._config, self._blocked, self._leases, self._session = config, blocked, leases, session
        self._places = asyncio.Semaphore(config.in_flight)
        self._limits = _limits(config.image_timeout_s, config.connect_timeout_s, config.read_timeout_s)

    async def fetch(self, address: str) -> Outcome:
        """The image behind an address, or why there is none; whatever a server does, this returns.

        Args:
            address: as it stands in the data set.
        """
        time_left, attempts = _TimeLeft(self._limits), 0
        for attempt in range(1, self._config.retries + 2):
            outcome = await self._follow(address, time_left)
            attempts += outcome.attempts
            if not outcome.retried or attempt > self._config.retries:
                break
            wait_s = self._wait_before_next(outcome, attempt)
            if wait_s > self._config.max_wait_s:
                break
            await asyncio.sleep(wait_s)
        outcome.attempts = attempts
        return outcome

    async def _follow(self, address: str, time_left: "_TimeLeft") -> Outcome:
        """One try, along its redirects."""
        try:
            url = URL(address.strip())
        except ValueError as error:
            return Outcome("bad_url", str(error)[:300])
        visited: set[URL] = set()
        for redirects in range(self._config.max_redirects + 1):
            if (refused := self._refused(url)) is not None:
                if redirects and refused.status == "bad_url":
                    refused.status = "bad_redirect"
                refused.attempts = min(redirects, 1)
                return refused
            if url in visited:
                return Outcome("redirect_loop", f"back to {url}"[:300], attempts=1)
            visited.add(url)
            answer = await self._ask(url, time_left)
            if isinstance(answer, Outcome):
                answer.attempts = min(redirects, 1) if answer.status == HOST_DOWN else 1
                return answer
            url = answer
        return Outcome("too_many_redirects", f"more than {self._config.max_redirects}", attempts=1)

    def _refused(self, url: URL) -> Outcome | None:
        """Why an address is not asked for, if it is not."""
        if url.scheme not in ("http", "https") or not url.raw_host:
            return Outcome("bad_url", f"must begin with http:// or https:// and name a host, got {url}"[:300])
        if url.raw_user is not None or url.raw_password is not None:
            return Outcome("bad_url", "must hold no user name and no password")
        if is_odd_notation(url.raw_host):
            return Outcome(REFUSED_ADDRESS, f"{url.raw_host} is no name and no address as it is written")
        if self._blocked.identity and self._blocked.holds_url(str(url)):
            return Outcome(BLOCKED, "its address or host is on fetch.block_list")
        return None

    async def _ask(self, url: URL, time_left: "_TimeLeft") -> Outcome | URL:
        """One request in the host's turn: an outcome, or where to go on."""
        assert url.raw_host is not None
        host = url.raw_host.lower().rstrip(".")
        while True:
            lease = await self._leases.acquire(host)
            if lease == HOST_DOWN_LEASE:
                failures = self._config.host_failures
                return Outcome(HOST_DOWN, f"{host} has not answered {failures} times, or asks for a long pause")
            granted, report = time.monotonic(), _NOTHING_ASKED
            try:
                async with self._places:  # after the lease: a busy host must not take the places of others
                    if time.monotonic() - granted < LEASE_SLACK_S / 2:  # else too little of it is left for the request
                        answer = await self._request(url, time_left)
                        report = self._report(answer)
                        return answer
            finally:
                self._leases.release(host, lease, report)

    def _report(self, answer: Outcome | URL) -> Report:
        """What an answer tells of its host."""
        if isinstance(answer, URL) or not answer.speaks_for_host:
            return Report(failed=isinstance(answer, Outcome) and answer.host_fails)
        pause_s = self._wait_before_next(answer, 1)
        return Report(pause_s=pause_s, failed=False, down=pause_s > self._config.max_wait_s)

    async def _request(self, url: URL, time_left: "_TimeLeft") -> Outcome | URL:
        try:
            with time_left as timeout:
                async with self._session.get(url, allow_redirects=False, timeout=timeout) as response:
                    return await self._read(url, response)
        except Exception as error:  # a server may make a library stumble over anything; the others are fetched all the same
            return outcome_of(error)

    async def _read(self, url: URL, response: aiohttp.ClientResponse) -> Outcome | URL:
        if self._config.honour_directives:
            if (directive := forbidding_directive(response.headers.getall("X-Robots-Tag", []))) is not None:
                return Outcome("robots", f"X-Robots-Tag: {directive}", final_url=str(url))
        if response.status in _REDIRECTS:
            return _redirected(url, response)
        if response.status != 200:
            retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
            return Outcome(f"http_{response.status}", response.reason, retry_after_s=retry_after_s, final_url=str(url))
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
            return Outcome("content_encoding", response.headers["Content-Encoding"][:100], final_url=str(url))
        limit = self._config.max_bytes
        if (response.content_length or 0) > limit:
            return Outcome("too_large", f"{response.content_length} bytes, at most {limit} are read", final_url=str(url))
        pieces, size = [], 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                return Outcome("too_large", f"more than {limit} bytes", final_url=str(url))
        return self._judge(b"".join(pieces), str(url))

    def _judge(self, data: bytes, final_url: str) -> Outcome:
        """What the bytes are, whatever the server called them."""
        sha256 = sha256_bytes(data)
        if sha256 in self._blocked.sha256:
            return Outcome(BLOCKED, "its sha256 is on fetch.block_list", final_url=final_url)
        outcome = image_outcome(data)
        outcome.sha256, outcome.final_url = sha256, final_url
        return outcome

    def _wait_before_next(self, outcome: Outcome, attempt: int) -> float:
        """Seconds before another try: what the server asks for, or twice as long each time; varied, so that tries spread."""
        if outcome.retry_after_s is not None:
            return outcome.retry_after_s * random.uniform(1.0, 1.1)
        return self._config.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)


def _limits(image_s: float, connect_s: float | None, read_s: float | None) -> aiohttp.ClientTimeout:
    """Time limits of a request, to the fraction of a second."""
    return aiohttp.ClientTimeout(total=image_s, sock_connect=connect_s, sock_read=read_s, ceil_threshold=float("inf"))


class _TimeLeft:
    """The time of a whole image, which runs while it is asked for, and not while it waits for a turn.

    Entered before a request, it gives that request's time limits.

    Args:
        limits: for an image that has not been asked for yet; ``total`` is the time of the whole.
    """

    def __init__(self, limits: aiohttp.ClientTimeout) -> None:
        self._limits = limits
        self._started = self._spent = 0.0

    def __enter__(self) -> aiohttp.ClientTimeout:
        self._started = time.monotonic()
        if not self._spent:
            return self._limits
        left = max((self._limits.total or 0) - self._spent, _LEAST_S)  # 0 would be no limit
        return _limits(left, self._limits.sock_connect, self._limits.sock_read)

    def __exit__(self, *error: object) -> None:
        self._spent += time.monotonic() - self._started


def _redirected(url: URL, response: aiohttp.ClientResponse) -> Outcome | URL:
    location = response.headers.get("Location") or response.headers.get("URI")
    if not location:
        return Outcome("bad_redirect", f"{response.status} without Location", final_url=str(url))
    try:
        return url.join(URL(location.strip())).with_fragment(None)
    except ValueError as error:
        return Outcome("bad_redirect", f"{location}: {error}"[:300], final_url=str(url))


def _retry_after_s(header: str | None) -> float | None:
    """Seconds of a ``Retry-After``, which holds them or a date; None where it holds neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
