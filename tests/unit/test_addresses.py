"""Which addresses may be connected to."""

import asyncio
import ipaddress
import socket

import aiohttp
import pytest

from rdd.data.addresses import RefusedAddressError, guarded_sockets, is_odd_notation, is_public

REFUSED = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.0.1 169.254.169.254
172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.9 192.0.0.170 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::8.8.8.8 ::ffff:8.8.8.8 ::ffff:10.0.0.1 ::ffff:0:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 100:0:0:1::1
2001::1 2001:2::1 2001:10::1 2001:20::1 2001:db8::1 2002:a00:1::1 2002:808:808::1 3fff::1 5f00::1 fc00::1 fd00::1
fe80::1 fe80::1%eth0 fec0::1 ff02::1 ff0e::1 4000::1
""".split()

PUBLIC = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 169.253.255.255 169.255.0.0
172.15.255.255 172.32.0.0 192.0.1.0 192.88.98.255 192.167.255.255 192.169.0.0 198.17.255.255 198.20.0.0 223.255.255.255
2001:4860:4860::8888 2606:4700::1111 2a00:1450:4001::1
""".split()


def test_public_addresses_alone_are_public() -> None:
    assert [address for address in REFUSED if is_public(address)] == []
    assert [address for address in PUBLIC if not is_public(address)] == []


def test_loopback_passes_where_it_is_allowed_and_nothing_else_with_it() -> None:
    allowed = [address for address in REFUSED if is_public(address, allow_loopback=True)]
    assert allowed == ["127.0.0.1", "127.255.255.254", "::1"]
    assert all(is_public(address, allow_loopback=True) for address in PUBLIC)


def test_no_address_that_python_calls_private_is_public() -> None:
    for value in range(0, 2**32, 2**32 // 40_000):
        ip = ipaddress.ip_address(value)
        if ip.is_private or ip.is_multicast or ip.is_reserved or ip.is_link_local:
            assert not is_public(str(ip)), ip


def test_a_socket_is_made_for_a_public_address_alone() -> None:
    make = guarded_sockets()
    with make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80))) as made:
        assert made.family == socket.AF_INET
    with pytest.raises(RefusedAddressError, match=r"169\.254\.169\.254 is no public address"):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80)))
    with pytest.raises(RefusedAddressError):
        make((socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1%2", 80, 0, 2)))


@pytest.mark.parametrize("host", ["0x7f.1", "2130706433", "0177.0.0.1", "127.1", "0x7f000001", "1.2.3", "01.2.3.4", "a.0x1"])
def test_numbers_that_are_no_address_are_odd(host: str) -> None:
    assert is_odd_notation(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "8.8.8.8", "example.com", "1.example", "::1", "a0x1.de", "0x7f.example", "x1"])
def test_names_and_addresses_are_not(host: str) -> None:
    assert not is_odd_notation(host)


def test_the_connector_asks_the_guard_for_literals_and_for_each_address_of_a_name() -> None:
    asked: list[str] = []

    class TwoAddresses(aiohttp.abc.AbstractResolver):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            entry = {"hostname": host, "port": port, "proto": 6, "flags": 0}
            return [
                entry | {"host": "10.0.0.1", "family": socket.AF_INET},
                entry | {"host": "fd00::1", "family": socket.AF_INET6},
            ]

        async def close(self) -> None:
            pass

    def refuse(info):
        asked.append(info[4][0])
        return guarded_sockets()(info)

    async def get(url: str) -> None:
        connector = aiohttp.TCPConnector(resolver=TwoAddresses(), socket_factory=refuse)
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(url)

    for url in ("http://two.example/", "http://127.0.0.1:1/", "http://[::1]:1/"):
        asyncio.run(get(url))
    assert set(asked) == {"10.0.0.1", "fd00::1", "127.0.0.1", "::1"}
