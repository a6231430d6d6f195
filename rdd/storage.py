"""Paths and files on local disks, S3 and other object stores: listing, atomic writes, and the directory that a stage owns."""

import contextlib
import errno
import fcntl
import functools
import json
import os
import posixpath
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import yaml

from rdd.shapes import Shape, described, has_shape

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """File system of a path and the path inside it.

    Args:
        path: local, or an address that fsspec knows: ``s3://bucket/key`` (through s3fs, which honours ``AWS_ENDPOINT_URL`` and
            the usual credentials), ``gs://`` where gcsfs is installed, ``abfs://`` where adlfs is, and so on.

    Raises:
        ValueError: fsspec knows no such address, or the package for it is not installed.
    """
    if not is_remote(path):
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path.removeprefix("file://")))
    import fsspec  # only where it is used: with the package of an object store it takes half a second to import

    try:
        fs, inner = fsspec.core.url_to_fs(path, use_listings_cache=False, **_patience(path.split("://")[0]))
    except ImportError as error:
        raise ValueError(f"{path} can not be read on this machine: {error}") from error
    except ValueError as error:
        raise ValueError(f"a path must be local or an address such as s3://bucket/key, got {path!r} ({error})") from error
    return pafs.PyFileSystem(_ExactReads(fs)), inner.rstrip("/")


_S3_RETRIES = {"mode": "standard", "max_attempts": 10}
"""Of each request, with pauses of 0.5, 1, 2, 4, 8, then 10 s on average, which bridges about half a minute without an answer.

botocore's own default gives up after 7 s, and with a fifth of all requests refused it loses one in 3,000.
"""


@functools.cache
def _patience(scheme: str) -> Mapping[str, Any]:
    """How often requests are tried again, for fsspec; what the environment or AWS's config file says goes first."""
    if scheme not in ("s3", "s3a"):
        return {}
    import botocore.session

    session = botocore.session.get_session()
    if session.get_config_variable("max_attempts") or session.get_config_variable("retry_mode") not in (None, "legacy"):
        return {}
    return {"config_kwargs": {"retries": _S3_RETRIES}}


class _ExactReads(pafs.FSSpecHandler):
    """Reads of a file fetch what was asked for: of Parquet some places are read, and s3fs would fetch 50 MiB after each.

    A file that is not there is refused by the store itself: the base class asks whether there is one before, and takes any
    failure of that question for a no.
    """

    def open_input_file(self, path: str) -> pa.NativeFile:
        """A file to read from anywhere in it."""
        return pa.PythonFile(self.fs.open(path, mode="rb", cache_type="none"), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """A file to read from front to back."""
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")


def is_remote(path: str) -> bool:
    """Whether a path is an address of an object store, where there are no locks and no directories."""
    return "://" in path and not path.startswith("file://")


def absolute(path: str) -> str:
    """The path as every process of this machine understands it, wherever it runs."""
    return path.rstrip("/") if is_remote(path) else filesystem(path)[1]


def join(path: str, *parts: str) -> str:
    """Path below a directory, local or on S3."""
    return posixpath.join(path, *parts)


@dataclass(frozen=True)
class File:
    """A file of a listing: its path as given back to :func:`filesystem`, its size in bytes, and when it was last written."""

    path: str
    size: int
    written_ns: int
    """Nanoseconds since 1970; 0 where the store does not say."""


def list_files(path: str, *, suffix: str = "") -> list[File]:
    """Files below a directory that end with ``suffix``, sorted; names that begin with a dot are left out.

    Raises:
        ValueError: the directory does not exist.
    """
    fs, root = filesystem(path)
    kind = fs.get_file_info(root).type
    if kind == pafs.FileType.File:
        raise ValueError(f"{path} must be a directory and is a file")
    if kind != pafs.FileType.Directory:
        raise ValueError(f"no directory at {path}")
    scheme = f"{path.split('://')[0]}://" if is_remote(path) else ""
    infos = fs.get_file_info(pafs.FileSelector(root, recursive=True))
    files = [
        File(scheme + info.path, info.size, info.mtime_ns or 0)
        for info in infos
        if info.type == pafs.FileType.File and info.path.endswith(suffix) and not is_hidden(posixpath.relpath(info.path, root))
    ]
    return sorted(files, key=lambda file: file.path)


def is_hidden(below: str) -> bool:
    """Whether a part of a path below a directory begins with a dot."""
    return any(part.startswith(".") for part in below.split("/"))


def exists(path: str) -> bool:
    """Whether there is a file or a directory."""
    fs, inner = filesystem(path)
    return fs.get_file_info(inner).type != pafs.FileType.NotFound


def read_bytes(path: str) -> bytes:
    """Content of a file; an object store is asked for its size and for all of it at once."""
    fs, inner = filesystem(path)
    if isinstance(fs, pafs.PyFileSystem):
        return fs.handler.fs.cat_file(inner)
    with fs.open_input_file(inner) as file:
        return file.read()


def make_directory(path: str) -> None:
    """Create a local directory and its parents; S3 has none, and would create a mistyped bucket."""
    fs, inner = filesystem(path)
    if isinstance(fs, pafs.LocalFileSystem):
        fs.create_dir(inner, recursive=True)


def open_input(path: str) -> pa.NativeFile:
    """A file to read from anywhere in it; a local one is mapped, which saves a copy."""
    fs, inner = filesystem(path)
    return pa.memory_map(inner) if isinstance(fs, pafs.LocalFileSystem) else fs.open_input_file(inner)


def delete_file(path: str) -> None:
    """Delete a file."""
    fs, inner = filesystem(path)
    if isinstance(fs, pafs.PyFileSystem):
        fs.handler.fs.rm_file(inner)  # s3fs deletes by the list otherwise, and then says nothing of what could not be deleted
    else:
        fs.delete_file(inner)


def delete_directory(path: str) -> None:
    """Delete a directory with its content, if it is there."""
    fs, inner = filesystem(path)
    if fs.get_file_info(inner).type == pafs.FileType.Directory:
        fs.delete_dir(inner)


@contextlib.contextmanager
def atomic_output(path: str) -> Iterator[pa.NativeFile]:
    """A stream whose content appears at ``path`` whole or not at all."""
    fs, inner = filesystem(path)
    if not isinstance(fs, pafs.LocalFileSystem):  # closing a stream to S3 commits it, so it is opened once all content is there
        buffer = pa.BufferOutputStream()
        yield buffer
        with fs.open_output_stream(inner) as stream:
            stream.write(buffer.getvalue())
        return
    fs.create_dir(posixpath.dirname(inner), recursive=True)
    temporary = posixpath.join(posixpath.dirname(inner), f".{posixpath.basename(inner)}.{uuid.uuid4().hex}.tmp")
    try:
        with fs.open_output_stream(temporary) as stream:
            yield stream
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, inner)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        why = os.strerror(error.errno or 0)
        raise RuntimeError(f"{path} can not be written ({why}); make room and start the same command again") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def delete_temporaries(path: str) -> None:
    """Delete what killed writers of :func:`atomic_output` have left in a directory; an object store shows nothing of them."""
    if is_remote(path):
        return
    folder = filesystem(path)[1]
    for name in os.listdir(folder):
        if name.startswith(".") and name.endswith(".tmp"):
            os.unlink(os.path.join(folder, name))


def write_bytes(path: str, data: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic_output(path) as stream:
        stream.write(data)


def write_json(path: str, value: Any) -> None:
    """Write JSON for people and programs, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: str, shape: Shape, *, way_out: str) -> Any:
    """Value of a JSON file that a stage has written.

    Args:
        path: the file.
        shape: what it must hold, see :mod:`rdd.shapes`.
        way_out: what a person can do where the file is damaged, for the message.

    Raises:
        RuntimeError: it is torn, no JSON, or holds something else; the file and the way out are named.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:  # no JSON, or no UTF-8
        raise RuntimeError(f"{path} is torn or no JSON ({' '.join(str(error).split())}); {way_out}") from error
    if not has_shape(value, shape):
        raise RuntimeError(f"{path} must hold {described(shape)}, got {repr(value)[:60]}; {way_out}")
    return value


def read_table(path: str, columns: list[str] | None = None, *, optional: Collection[str] = (), way_out: str) -> pa.Table:
    """A Parquet file that a stage has written, or some of its columns; checksums are verified.

    Args:
        path: the file.
        columns: names; by default all.
        optional: those of them that the file may lack.
        way_out: what a person can do where the file is damaged, for the message.

    Raises:
        RuntimeError: it is torn, no Parquet, or lacks a column; the file and the way out are named. Or the disk or the store
            is at fault, where the file may be whole.
    """
    try:
        if columns is None:  # small ones, of which there are many
            table = pq.ParquetFile(pa.BufferReader(read_bytes(path)), page_checksum_verification=True).read()
        else:
            with open_input(path) as file:
                table = pq.ParquetFile(file, page_checksum_verification=True).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):  # what is damaged has no such number
            way_out = "when the disk or the store answers, start the same command again"
        raise RuntimeError(f"{path} can not be read ({' '.join(str(error).split())}); {way_out}") from error
    if missing := set(columns or ()) - set(table.column_names) - set(optional):
        raise RuntimeError(f"{path} lacks the column(s) {', '.join(sorted(missing))}; {way_out}")
    return table


def write_table(path: str, table: pa.Table, **options: Any) -> None:
    """Write one Parquet file, whole or not at all; options are those of ``pyarrow.parquet.write_table``."""
    with atomic_output(path) as stream:
        pq.write_table(table, stream, **options)


@contextlib.contextmanager
def owned_directory(
    path: str, config: Mapping[str, Any], *, neutral: Collection[str] = (), added: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """Take a directory for a stage: for this config only, and for one process at a time.

    The first run writes ``config.yaml``; a later one must come with the same config.

    Args:
        path: the output directory.
        config: what the result depends on, section by section.
        neutral: dotted paths that may differ, because they do not change the result.
        added: by dotted path, what a setting was where an earlier version did not know it.

    Raises:
        ValueError: the directory was made with another config (the keys are named), or holds something else.
        RuntimeError: another process is working on it.
    """
    make_directory(path)
    with _lock(path):
        if not check_begun(path, config, neutral=neutral, added=added):
            write_bytes(join(path, "config.yaml"), yaml.safe_dump(dict(config), sort_keys=False).encode())
        yield


def check_begun(
    path: str, config: Mapping[str, Any], *, neutral: Collection[str] = (), added: Mapping[str, Any] | None = None
) -> bool:
    """Whether a stage has begun in a directory; nothing is written. Arguments and what is refused as :func:`owned_directory`.

    Raises:
        ValueError: the directory was made with another config (the keys are named), or holds something else.
    """
    place = join(path, "config.yaml")
    if exists(place):
        now = _flat(config)
        unknown_then = {name: value for name, value in (added or {}).items() if name in now}
        _refuse_other_config(path, unknown_then | _flat(_read_config(place)), now, neutral)
        return True
    if exists(path) and list_files(path):
        raise ValueError(f"{path} holds files but no config.yaml of this stage; choose another output")
    return False


def _read_config(path: str) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(read_bytes(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}); choose another output") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} does not hold the config of a stage; choose another output")
    return config


def _refuse_other_config(path: str, before: Mapping[str, Any], now: Mapping[str, Any], neutral: Collection[str]) -> None:
    keys = sorted((before.keys() | now.keys()) - set(neutral))
    different = [key for key in keys if not _same(before.get(key), now.get(key))]
    if different:
        changes = ", ".join(f"{key} ({before.get(key)!r} there, {now.get(key)!r} now)" for key in different)
        raise ValueError(f"{path} was made with another config: {changes}; choose another output or delete it")


def _same(one: Any, other: Any) -> bool:
    """Equal, also as two ways to write one path: ``x``, ``x/``, ``./x`` or absolute."""
    if one == other or not (isinstance(one, str) and isinstance(other, str) and one and other):
        return one == other
    try:
        return absolute(one) == absolute(other)
    except ValueError:  # of a scheme that is no path of ours
        return False


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:  # an empty one is a setting like any other
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@contextlib.contextmanager
def _lock(path: str) -> Iterator[None]:
    """Hold a local directory against a second process; the kernel lets go when this one dies, however it dies."""
    if is_remote(path):  # object stores have no locks; two runs on one prefix are the user's to avoid
        yield
        return
    with open(join(absolute(path), ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"another process is working on {path}; wait for it or choose another output") from error
        _locks.add(file.fileno())
        try:
            yield
        finally:
            _locks.discard(file.fileno())


_locks: set[int] = set()
"""Descriptors of the locks that this process holds."""


@contextlib.contextmanager
def locks_kept() -> Iterator[None]:
    """Within it the directories that this process owns when it begins stay locked, even if their owner has gone on.

    For a thread that works in them and can not be stopped: a lock is let go when its last descriptor is closed.
    """
    copies = [os.dup(descriptor) for descriptor in list(_locks)]
    try:
        yield
    finally:
        for descriptor in copies:
            os.close(descriptor)
