"""Files that a wildcard is like, on local disks and in object stores."""

from typing import Any

import pyarrow.fs as pafs

from rdd import storage

_WILD = "*?["


def is_wildcard(path: str) -> bool:
    """Whether a path has a character that stands for others: ``*``, ``?`` or ``[``."""
    return any(character in path for character in _WILD)


def fixed_part(pattern: str) -> str:
    """The directory of a wildcard, below which all lies that is like it.

    Example:
        >>> fixed_part("s3://bucket/d3/*/part-0*.parquet")
        's3://bucket/d3'
    """
    first = min(pattern.index(character) for character in _WILD if character in pattern)
    return pattern[:first].rpartition("/")[0] or ("/" if pattern.startswith("/") else ".")


def glob_files(pattern: str, *, suffix: str = "") -> list[storage.File]:
    """Files that a wildcard is like and that end with ``suffix``, sorted; names that begin with a dot are left out.

    Args:
        pattern: with ``*`` for any part of a name, ``**`` for any number of directories, ``?`` for one character, and ``[ab]``
            for one of some.
        suffix: ending of the files.

    Raises:
        ValueError: the pattern is none.
    """
    fs, inner = storage.filesystem(pattern)
    scheme = f"{pattern.split('://')[0]}://" if storage.is_remote(pattern) else ""
    try:
        found = _fsspec_of(fs).glob(inner, detail=True)
    except ValueError as error:
        raise ValueError(f"{pattern} is no wildcard: {error}") from error
    root = len(fixed_part(inner))
    files = [
        storage.File(scheme + path, info["size"], int(info.get("mtime", 0) * 1e9))
        for path, info in found.items()
        if info["type"] == "file" and path.endswith(suffix) and not storage.is_hidden(path[root:])
    ]
    return sorted(files, key=lambda file: file.path)


def _fsspec_of(fs: pafs.FileSystem) -> Any:
    """The file system of fsspec behind one of Arrow."""
    if isinstance(fs, pafs.PyFileSystem):
        return fs.handler.fs
    from fsspec.implementations.local import LocalFileSystem

    return LocalFileSystem()
