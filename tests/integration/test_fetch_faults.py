"""One address after another from a web server with every vice, a process of its own."""

import asyncio
import dataclasses
import errno
import gc
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import aiodns
import aiohttp
import pycares
import pytest
from _web_server import image, stats, web_server

from rdd.config import FetchConfig
from rdd.data.block_list import BlockList
from rdd.data.fetch import open_fetcher
from rdd.data.host_leases import HostLeases, Leases, NoLimit, Report
from rdd.data.outcomes import Outcome
from rdd.hashing import sha256_bytes

pytestmark = pytest.mark.timeout(120)

CONFIG = FetchConfig(
    contact="tests@example.org",
    allow_loopback=True,
    connect_timeout_s=2.0,
    read_timeout_s=1.5,
    image_timeout_s=3.0,
    backoff_s=0.05,
    max_wait_s=5.0,
    max_bytes=1_000_000,
    retries=2,
)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with web_server(tmp_path_factory.mktemp("web")) as port:
        yield port


def fetch(
    *urls: str,
    config: FetchConfig = CONFIG,
    blocked: BlockList | None = None,
    leases: Callable[[], Leases] = NoLimit,
    resolver: aiohttp.abc.AbstractResolver | None = None,
) -> list[Outcome]:
    async def all_of_them() -> list[Outcome]:
        async with open_fetcher(config, blocked or BlockList(), leases(), resolver=resolver) as fetcher:
            return await asyncio.gather(*(fetcher.fetch(url) for url in urls))

    return asyncio.run(all_of_them())


def test_the_search_for_cycles_is_rarer_while_a_fetcher_is_open() -> None:
    async def seen() -> tuple[int, ...]:
        async with open_fetcher(CONFIG, BlockList(), NoLimit()):
            return gc.get_threshold()

    before = gc.get_threshold()
    assert asyncio.run(seen()) == (10_000, *before[1:])
    assert gc.get_threshold() == before


FAULTS = {
    "/status/404": ("http_404", 1),
    "/status/410": ("http_410", 1),
    "/status/403": ("http_403", 1),
    "/status/204": ("http_204", 1),
    "/first/9/500?": ("http_500", 3),
    "/first/9/503?": ("http_503", 3),
    "/first/9/429?": ("http_429", 3),
    "/first/1/429?after=3600": ("http_429", 1),
    "/silence": ("read_timeout", 1),
    "/drip": ("image_timeout", 1),
    "/endless": ("too_large", 1),
    "/bomb": ("content_encoding", 1),
    "/html": ("not_an_image", 1),
    "/empty": ("empty", 1),
    "/short": ("incomplete", 3),
    "/reset": ("connection_reset", 3),
    "/nowhere": ("bad_redirect", 1),
    "/loop": ("redirect_loop", 1),
    "/chain/6": ("too_many_redirects", 1),
    "/to?to=/to?to=/image/1.jpg": ("ok", 1),
    "/to?to=http://10.0.0.1/": ("refused_address", 1),
    "/to?to=http://169.254.169.254/latest/meta-data/": ("refused_address", 1),
    "/to?to=http://[::ffff:127.0.0.1]/": ("refused_address", 1),
    "/to?to=http://[fd00::1]/": ("refused_address", 1),
    "/to?to=http://2130706433/": ("refused_address", 1),
    "/to?to=http://0x7f.0.0.1/": ("refused_address", 1),
    "/to?to=http://ann:secret@127.0.0.1/": ("bad_redirect", 1),
    "/to?to=file:///etc/passwd": ("bad_redirect", 1),
    "/to?to=http://[bad": ("bad_redirect", 1),
    "/image/2.jpg?robots=noai": ("robots", 1),
    "/image/2.jpg?robots=rdd:+noimageindex": ("robots", 1),
    "/image/2.jpg?robots=googlebot:+noindex": ("ok", 1),
    "http://127.0.0.1:1/": ("connection_refused", 1),
    "http://10.0.0.1/": ("refused_address", 1),
    "http://0177.0.0.1/": ("refused_address", 0),
    "ftp://example.org/a.jpg": ("bad_url", 0),
    "a.jpg": ("bad_url", 0),
    "http://ann:secret@127.0.0.1/": ("bad_url", 0),
    "http://[::1/": ("bad_url", 0),
}


def test_each_fault_has_its_reason_and_as_many_tries_as_it_deserves(port: int) -> None:
    addresses = [f"http://127.0.0.1:{port}{url}" if url.startswith("/") else url for url in FAULTS]
    outcomes = fetch(*addresses)
    assert {url: (o.status, o.attempts) for url, o in zip(FAULTS, outcomes, strict=True)} == FAULTS
    assert all((outcome.data is None) == (outcome.status != "ok") for outcome in outcomes)
    assert "secret" not in str(outcomes)


def test_an_image_comes_with_what_is_known_of_it(port: int) -> None:
    url = f"http://127.0.0.1:{port}/chain/5"
    (outcome,) = fetch(url)
    assert outcome.status == "ok"
    assert outcome.data == image(5)
    assert outcome.sha256 == sha256_bytes(image(5))
    assert (outcome.content_type, outcome.width, outcome.height) == ("image/jpeg", 48, 32)
    assert outcome.final_url == f"http://127.0.0.1:{port}/image/5.jpg"


def test_what_may_pass_is_asked_for_again_after_as_long_as_the_server_says(port: int) -> None:
    began = time.monotonic()
    outcomes = fetch(f"http://127.0.0.2:{port}/first/1/429?after=1", f"http://127.0.0.2:{port}/first/2/500?")
    assert [(outcome.status, outcome.attempts) for outcome in outcomes] == [("ok", 2), ("ok", 3)]
    assert time.monotonic() - began >= 1


def test_a_busy_host_is_left_alone_for_its_other_images_too(port: int) -> None:
    def leases() -> Leases:
        return HostLeases(per_host=1, lease_s=60, max_failures=0)

    began = time.monotonic()
    outcomes = fetch(
        f"http://127.0.0.3:{port}/first/1/503?after=1",
        *(f"http://127.0.0.3:{port}/image/{i}.jpg" for i in range(3)),
        leases=leases,
    )
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert time.monotonic() - began >= 1
    long = fetch(
        f"http://127.0.0.3:{port}/first/1/503?after=900",
        *(f"http://127.0.0.3:{port}/image/{i}.jpg" for i in range(3)),
        leases=leases,
    )
    assert [outcome.status for outcome in long] == ["http_503", "host_down", "host_down", "host_down"]


def test_a_silent_host_is_given_up_after_some_images(port: int) -> None:
    config = dataclasses.replace(CONFIG, read_timeout_s=0.2, host_failures=3)
    urls = [f"http://127.0.0.4:{port}/silence?{i}" for i in range(8)]
    outcomes = fetch(*urls, config=config, leases=lambda: HostLeases(per_host=1, lease_s=60, max_failures=3))
    assert [outcome.status for outcome in outcomes] == ["read_timeout"] * 3 + ["host_down"] * 5
    assert sum(count for path, count in stats(port)["requests"].items() if path.startswith("/silence?")) == 3


def test_what_is_blocked_is_not_asked_for_nor_kept(port: int) -> None:
    base = f"http://127.0.0.5:{port}"
    blocked = BlockList(
        urls=frozenset({f"{base}/image/900.jpg"}),
        hosts=frozenset({"127.0.0.6"}),
        sha256=frozenset({sha256_bytes(image(901))}),
        identity="x",
    )
    urls = [
        f"{base}/image/900.jpg",
        f"http://127.0.0.6:{port}/image/902.jpg",
        f"{base}/to?to=/image/900.jpg",
        f"{base}/to?to=http://127.0.0.6:{port}/image/902.jpg",
        f"{base}/image/901.jpg",
        f"{base}/image/903.jpg",
    ]
    outcomes = fetch(*urls, blocked=blocked)
    assert [outcome.status for outcome in outcomes] == ["blocked"] * 5 + ["ok"]
    assert [outcome.attempts for outcome in outcomes] == [0, 0, 1, 1, 1, 1]
    asked = stats(port)["requests"]
    assert "/image/900.jpg" not in asked
    assert "/image/902.jpg" not in asked


def test_directives_can_be_switched_off(port: int) -> None:
    config = dataclasses.replace(CONFIG, honour_directives=False)
    assert fetch(f"http://127.0.0.1:{port}/image/2.jpg?robots=noai", config=config)[0].status == "ok"


def test_without_leave_loopback_is_refused(port: int) -> None:
    config = dataclasses.replace(CONFIG, allow_loopback=False)
    outcomes = fetch(f"http://127.0.0.1:{port}/image/1.jpg", f"http://localhost:{port}/image/1.jpg", config=config)
    assert [outcome.status for outcome in outcomes] == ["refused_address"] * 2


def test_nothing_of_the_environment_and_no_cookie_goes_out(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ann password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    outcomes = fetch(*(f"http://127.0.0.1:{port}/to?to=/image/{i}.jpg" for i in range(3)))
    outcomes += fetch(*(f"http://127.0.0.1:{port}/image/{i}.jpg" for i in range(3)))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    seen = stats(port)
    assert seen["odd_headers"] == []
    assert seen["agents"] == ["rdd/0.1.0 (+tests@example.org)"]


class Names(aiohttp.abc.AbstractResolver):
    """A resolver that answers as it is told, one answer after the other."""

    def __init__(self, *answers: str | OSError) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[dict]:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, OSError):
            raise answer
        return [{"hostname": host, "host": answer, "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}]

    async def close(self) -> None:
        pass


def dns_error(code: int) -> OSError:
    """As aiohttp's resolver hands on what c-ares says."""
    error = OSError(None, "DNS lookup failed")
    error.__cause__ = aiodns.error.DNSError(code, "as c-ares says")
    return error


def test_a_name_that_moves_to_a_private_address_is_refused_when_it_is_connected_to(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdd.data.fetch._DNS_CACHE_S", 0)
    names = Names("127.0.0.1", "10.0.0.1")  # loopback is allowed here, and stands for a public address
    (first,) = fetch(f"http://moves.example:{port}/to?to=/image/1.jpg", resolver=names)
    assert first.status == "refused_address"
    assert names.asked == 2
    assert "/to?to=/image/1.jpg" in stats(port)["requests"]


def test_a_resolver_that_is_busy_is_asked_again_and_one_that_is_sure_is_not(port: int) -> None:
    busy = Names(dns_error(pycares.errno.ARES_ETIMEOUT), dns_error(pycares.errno.ARES_ESERVFAIL), "127.0.0.1")
    (outcome,) = fetch(f"http://busy.example:{port}/image/1.jpg", resolver=busy)
    assert (outcome.status, outcome.attempts, busy.asked) == ("ok", 3, 3)
    always = Names(OSError(errno.EIO, "no resolver"))
    (outcome,) = fetch(f"http://busy.example:{port}/image/1.jpg", resolver=always)
    assert (outcome.status, outcome.attempts) == ("resolver_busy", 3)
    for code in (pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_ENODATA):
        sure = Names(dns_error(code))
        (outcome,) = fetch(f"http://gone.example:{port}/image/1.jpg", resolver=sure)
        assert (outcome.status, outcome.attempts, sure.asked) == ("no_such_host", 1, 1)


def test_the_real_resolver_tells_a_name_that_is_not_there_from_a_server_that_does_not_answer() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:  # a resolver that is too busy to answer
        silent.bind(("127.0.0.1", 0))

        async def ask() -> Outcome:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            resolver = aiohttp.AsyncResolver(nameservers=[address], timeout=0.2, tries=1)
            config = dataclasses.replace(CONFIG, retries=0)
            async with open_fetcher(config, BlockList(), NoLimit(), resolver=resolver) as fetcher:
                return await fetcher.fetch("http://somewhere.example/image.jpg")

        assert asyncio.run(ask()).status == "resolver_busy"
    assert fetch("http://surely-not-there.invalid/")[0].status == "no_such_host"


def test_each_hop_of_a_redirect_asks_for_the_turn_of_its_host(port: int) -> None:
    events: list[str] = []

    class Noted(NoLimit):
        async def acquire(self, host: str) -> int:
            events.append(f"takes {host}")
            return await super().acquire(host)

        def release(self, host: str, lease: int, report: Report) -> None:
            events.append(f"leaves {host}, failed {report.failed}, pause {report.pause_s:g}")

    fetch(f"http://127.0.0.1:{port}/to?to=http://127.0.0.2:{port}/chain/1", leases=Noted)
    expected = ["127.0.0.1", "127.0.0.2", "127.0.0.2"]
    assert events[::2] == [f"takes {host}" for host in expected]
    assert events[1::2] == [f"leaves {host}, failed False, pause 0" for host in expected]
    events.clear()
    fetch(f"http://127.0.0.1:{port}/first/9/503?after=900", "http://127.0.0.1:1/", leases=Noted)
    assert {event for event in events if event.startswith("leaves")} >= {"leaves 127.0.0.1, failed True, pause 0"}
    assert any("pause 9" in event for event in events)


def test_waiting_for_a_turn_is_not_the_images_time(port: int) -> None:
    config = dataclasses.replace(CONFIG, image_timeout_s=0.8, in_flight=1)
    urls = [f"http://127.0.0.7:{port}/image/{i}.jpg?delay=0.3" for i in range(6)]
    outcomes = fetch(*urls, config=config, leases=lambda: HostLeases(per_host=1, lease_s=60, max_failures=0))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert stats(port)["most"]["127.0.0.7"] == 1
