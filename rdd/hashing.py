"""Hashes that never change: of ids, which split and look up records, and of files, which pin weights."""

import hashlib
from collections.abc import Iterable

import numpy as np


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


def sha256_file(path: str) -> str:
    """SHA-256 of a local file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
