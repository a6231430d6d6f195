"""What must not be fetched or kept: a list of addresses, hosts and hashes, and a list of ids."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from yarl import URL

from rdd import storage
from rdd.hashing import sha256_bytes

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[^\s/?#@]+")


@dataclass(frozen=True)
class BlockList:
    """Addresses, hosts and hashes that are left out."""

    urls: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    """With all names below them."""
    sha256: frozenset[str] = frozenset()
    """Of the bytes of images, in hexadecimal."""
    identity: str = ""
    """SHA-256 of the file; empty where there is none."""

    def holds_url(self, url: str) -> bool:
        """Whether an address, or the host that it names, is on the list."""
        if not (self.urls or self.hosts):
            return False
        if url in self.urls:
            return True
        try:
            parsed = URL(url)
        except ValueError:
            return False
        return str(parsed) in self.urls or self.holds_host(parsed.raw_host or "")

    def holds_host(self, host: str) -> bool:
        """Whether a host, or a domain that it lies in, is on the list."""
        labels = host.lower().rstrip(".").split(".")
        return any(".".join(labels[start:]) in self.hosts for start in range(len(labels)))


def read_block_list(path: str) -> BlockList:
    """The list of a file; the empty list for no path.

    Args:
        path: a text file, local or on S3: on each line an address (with ``://``), a host, or a sha256 of 64 digits; a ``#`` at
            the beginning of a line makes it a comment.

    Raises:
        ValueError: there is no such file, or a line is none of these.
    """
    if not path:
        return BlockList()
    data = _read(path, "fetch.block_list")
    urls: set[str] = set()
    hosts: set[str] = set()
    hashes: set[str] = set()
    for number, entry in enumerate(_lines(data, path), 1):
        if not entry or entry.startswith("#"):
            continue
        if "://" in entry:
            urls |= {entry, _canonical(entry)}
        elif _SHA256.fullmatch(entry.lower()):
            hashes.add(entry.lower())
        elif _HOST.fullmatch(entry):
            hosts.add((URL.build(scheme="http", host=entry).raw_host or entry).lower().rstrip("."))
        else:
            raise ValueError(f"line {number} of {path} must be an address, a host or a sha256 of 64 digits, got {entry[:60]!r}")
    return BlockList(frozenset(urls), frozenset(hosts), frozenset(hashes), sha256_bytes(data))


def read_excluded_ids(path: str) -> frozenset[str]:
    """The ids of a file; none for no path.

    Args:
        path: a text file with an id on each line, or a JSON list of ids, local or on S3.

    Raises:
        ValueError: there is no such file, or its JSON is no list of strings.
    """
    if not path:
        return frozenset()
    data = _read(path, "fetch.excluded_ids")
    if data.lstrip()[:1] not in (b"[", b"{"):
        return frozenset(filter(None, _lines(data, path)))
    try:
        ids = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON list of ids or have one on each line ({error})") from error
    if not (isinstance(ids, list) and all(isinstance(name, str) for name in ids)):
        raise ValueError(f"{path} must be a JSON list of strings, the ids, got {type(ids).__name__}")
    return frozenset(ids)


def _read(path: str, setting: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except OSError as error:
        raise ValueError(f"{setting} must name a file that can be read, got {path} ({' '.join(str(error).split())})") from error


def _lines(data: bytes, path: str) -> Iterable[str]:
    try:
        return [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text ({error})") from error


def _canonical(url: str) -> str:
    try:
        return str(URL(url))
    except ValueError:
        return url
