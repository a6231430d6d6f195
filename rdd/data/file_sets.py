"""Which Parquet files a setting names: all below a directory, those that a wildcard is like, or those of a list."""

import posixpath
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow.fs as pafs

from rdd import storage
from rdd.data.wildcards import fixed_part, glob_files, is_wildcard

LIST_SUFFIX = ".txt"
"""Ending of a file that lists files."""

_THREADS = 16  # a question a file: latency of S3, not bandwidth


@dataclass(frozen=True)
class NamedFile:
    """A file of a set."""

    name: str
    """Unique in the set, and the same wherever the set is moved to as a whole: the path below its directory, below the fixed
    part of the wildcard, or below the directory of the list; the whole path of a file elsewhere that a list names."""
    file: storage.File


def names_many(path: str) -> bool:
    """Whether a path is a wildcard or a list of files, and no directory."""
    return (is_wildcard(path) or path.endswith(LIST_SUFFIX)) and not _is_directory(path)


def parquet_files(path: str, *, what: str = "") -> list[NamedFile]:
    """The Parquet files that a setting names, in an order that does not change: by path, or as a list has them.

    Args:
        path: a directory; a wildcard such as ``s3://bucket/d3/*/part-0*.parquet`` (``**`` for any number of directories); or a
            list, a text file that ends in ``.txt`` with a path or an address on each line, relative ones from where the list
            lies, in which blank lines and those that begin with # are ignored.
        what: more about the files, for the errors, such as ``" of real images"``.

    Raises:
        ValueError: nothing is there, or no Parquet file; a file of a list is missing, no file, or named twice.
    """
    if not names_many(path):
        named = _below(path, storage.list_files(path, suffix=".parquet"))
        if not named:
            raise ValueError(f"no Parquet file{what} below {path}")
        return named
    if path.endswith(LIST_SUFFIX) and not is_wildcard(path):
        return _listed(path, what)
    named = _below(fixed_part(path), glob_files(path, suffix=".parquet"))
    if not named:
        raise ValueError(f"no Parquet file{what} is like {path}; a wildcard must name files that end in .parquet")
    return named


def _below(root: str, files: list[storage.File]) -> list[NamedFile]:
    """Files by their paths below a directory."""
    prefix = len(storage.absolute(root).rstrip("/")) + 1
    return [NamedFile(file.path[prefix:], file) for file in files]


def _listed(path: str, what: str) -> list[NamedFile]:
    if not storage.exists(path):
        raise ValueError(f"no list of files at {path}")
    root = posixpath.dirname(storage.absolute(path))
    lines: dict[str, int] = {}
    for number, line in _lines(path):
        place = _place(root, line)
        if place in lines:
            raise ValueError(f"{path} names {place} twice, in lines {lines[place]} and {number}; a file must be named once")
        lines[place] = number
    if not lines:
        raise ValueError(f"{path} names no Parquet file{what}; it must hold a path or an address on each line")
    with ThreadPoolExecutor(_THREADS) as pool:
        files = list(pool.map(_file_at, lines))
    missing = [place for place, file in zip(lines, files, strict=True) if file is None]
    if missing:
        more = f" (and {len(missing) - 1} more are not)" if len(missing) > 1 else ""
        raise ValueError(f"{path} names {missing[0]} in line {lines[missing[0]]}, which is no file that is there{more}")
    return [
        NamedFile(place.removeprefix(f"{root.rstrip('/')}/"), file)
        for place, file in zip(lines, files, strict=True)
        if file is not None
    ]


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of each line that names a file."""
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8, a path or an address on each line ({error})") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, stripped


def _place(root: str, line: str) -> str:
    """The one way to write the path or address of a line."""
    path = line if storage.is_remote(line) or line.startswith(("/", "~", "file://")) else storage.join(root, line)
    if not storage.is_remote(path):
        return storage.absolute(path)
    scheme, inner = path.split("://", 1)
    return f"{scheme}://{posixpath.normpath(inner)}"


def _is_directory(path: str) -> bool:
    fs, inner = storage.filesystem(path)
    return fs.get_file_info(inner).type == pafs.FileType.Directory


def _file_at(path: str) -> storage.File | None:
    """What a listing says of one file; None where there is none, or something else."""
    fs, inner = storage.filesystem(path)
    info = fs.get_file_info(inner)
    return storage.File(path, info.size, info.mtime_ns or 0) if info.type == pafs.FileType.File else None
