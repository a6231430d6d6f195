"""Which network addresses may be connected to: public ones alone.

The check sits where a socket is made, after every resolution of a name, so that there is no way around it: for names, literals,
each hop of a redirect, and each address that is tried for one name.
"""

import errno
import ipaddress
import socket
from collections.abc import Callable
from functools import lru_cache

_NOT_FOR_THE_WEB = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # of protocols, some of which Python calls global
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # of protocols: Teredo and others, in which an IPv4 address may hide
        "2002::/16",  # 6to4, likewise
        "3fff::/20",  # documentation
    )
)
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All there is of the public IPv6; IPv4 inside IPv6 (``::ffff:0:0/96``, ``64:ff9b::/96``, ``::/96``) lies outside."""

_LOOPBACK = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple]
"""Family, type, protocol, canonical name and address, as ``getaddrinfo`` gives them."""


class RefusedAddressError(OSError):
    """A connection to an address that is not public."""


@lru_cache(maxsize=2**16)
def is_public(address: str, *, allow_loopback: bool = False) -> bool:
    """Whether a network address belongs to the public internet.

    Args:
        address: IPv4 or IPv6 in its canonical form, with or without a zone (``%eth0``).
        allow_loopback: count 127.0.0.0/8 and ::1 as public, for tests.

    Raises:
        ValueError: it is no address.

    Example:
        >>> is_public("93.184.215.14"), is_public("169.254.169.254"), is_public("::ffff:10.0.0.1")
        (True, False, False)
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if any(ip in network for network in _LOOPBACK):
        return allow_loopback
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NOT_FOR_THE_WEB)


def guarded_sockets(*, allow_loopback: bool = False) -> Callable[[AddressInfo], socket.socket]:
    """A ``socket_factory`` for aiohttp's connector that makes sockets for public addresses alone.

    Args:
        allow_loopback: let 127.0.0.0/8 and ::1 pass as well, for tests.

    Returns:
        A function that raises :class:`RefusedAddressError` for any other address, before a packet is sent.
    """

    def make_socket(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, address = info
        if not is_public(address[0], allow_loopback=allow_loopback):
            raise RefusedAddressError(errno.EACCES, f"{address[0]} is no public address")
        return socket.socket(family=family, type=kind, proto=protocol)

    return make_socket


@lru_cache(maxsize=2**16)
def is_odd_notation(host: str) -> bool:
    """Whether a host is a number that is not written as an address: ``0x7f.1``, ``2130706433``, ``0177.0.0.1``.

    Some resolvers take it for an address, others for a name. No public name ends in a number.
    """
    last = host.rstrip(".").rpartition(".")[2].lower()
    looks_like_number = last.isdigit() or (last.startswith("0x") and all(c in "0123456789abcdef" for c in last[2:]))
    if not looks_like_number or ":" in host:
        return False
    try:
        return str(ipaddress.IPv4Address(host)) != host
    except ValueError:
        return True
