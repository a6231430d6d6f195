"""Hashes that never change: of ids, which split and look up records, and of files, which pin weights."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_PART_BYTES = 64 * 2**20


def hash_strings(strings: Iterable[str], *, seed: int = 0) -> np.ndarray:
    """Stable 64-bit hash of each string, uniform over [0, 2^64).

    Args:
        strings: any strings, N of them.
        seed: another seed gives an independent hash.

    Returns:
        ``(N,)`` uint64, the same on every machine and in every version.
    """
    salt = seed.to_bytes(8, "little")
    digests = b"".join(hashlib.blake2b(s.encode(), digest_size=8, salt=salt).digest() for s in strings)
    return np.frombuffer(digests, dtype="<u8")


def hash_bytes(data: bytes) -> int:
    """Stable 64-bit hash of bytes, in [0, 2^64)."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def sha256_file(path: str) -> str:
    """SHA-256 of a local file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_file_in_parts(path: str) -> str:
    """SHA-256 of the SHA-256 of each 64 MiB of a local file, computed by as many threads as there are CPUs."""

    def part(start: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(_PART_BYTES)).digest()

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return sha256_bytes(b"".join(pool.map(part, range(0, os.path.getsize(path), _PART_BYTES))))


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
