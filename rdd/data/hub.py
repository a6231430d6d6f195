"""D3's own Parquet from a model hub into the directory of records, file by file; what is there already is not brought again."""

import fnmatch
import logging
import os
import posixpath
import shutil
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rdd import storage
from rdd.data.file_sets import names_many
from rdd.hashing import sha256_bytes
from rdd.progress import logged

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0

_FILES_AT_ONCE = 2  # of half a gigabyte each, which pass through memory on their way to an object store


@dataclass(frozen=True)
class _Entry:
    """A file of the hub and where it goes."""

    name: str
    size: int
    target: str


def bring_records(dataset: str, pattern: str, path: str) -> int:
    """Bring the files of a data set on a hub; started again, it goes on, within a file too.

    Args:
        dataset: its name on the hub, such as ``elsaEU/ELSA_D3``.
        pattern: of the files, with ``*`` for any part of a path.
        path: directory to write, local or on S3; a file that is there with its size is left alone.

    Returns:
        How many files were brought.

    Raises:
        ValueError: the path is no directory, the hub has no such data set, or it has no such file.
        RuntimeError: no hub is in reach, or it failed half-way.
    """
    from huggingface_hub import constants, errors  # takes half a second, and few runs need it

    if names_many(path):
        raise ValueError(f"records.path must be a directory, into which fetch.hub brings files, got {path}")
    way_out = (
        f"bring its Parquet into {path} by other means and leave fetch.hub empty, e.g. by "
        f"'hf download {dataset} --repo-type dataset --include \"{pattern}\" --local-dir DIR' on a machine that reaches one"
    )
    _probe(constants.ENDPOINT, f"no hub in reach for {dataset} at {constants.ENDPOINT}", way_out)
    try:
        missing = _missing(dataset, pattern, path)
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            brought = pool.map(lambda entry: _bring(dataset, entry, path), missing)
            return sum(1 for _ in logged(brought, total=len(missing), what="files brought from the hub"))
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise ValueError(f"fetch.hub must name a data set of {constants.ENDPOINT}, got {dataset} ({_line(error)})") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.FileMetadataError, OSError) as error:
        raise RuntimeError(
            f"the hub failed ({_line(error)}); the same command goes on where it stopped, or {way_out}"
        ) from error


def _missing(dataset: str, pattern: str, path: str) -> list[_Entry]:
    """Files of the hub that are not in the directory with their size."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    tree = HfApi().list_repo_tree(dataset, repo_type="dataset", recursive=True)
    wanted = [file for file in tree if isinstance(file, RepoFile) and fnmatch.fnmatchcase(file.path, pattern)]
    if not wanted:
        raise ValueError(f"fetch.hub_files must name files of {dataset}, got {pattern}, which none of its files is like")
    present = {}
    if storage.exists(path):
        prefix = len(storage.absolute(path)) + 1
        present = {file.path[prefix:]: file.size for file in storage.list_files(path)}
    entries = [_Entry(file.path, file.size, storage.join(path, file.path)) for file in wanted]
    missing = [entry for entry in entries if present.get(entry.name) != entry.size]
    size = sum(entry.size for entry in missing)
    logger.info("%d of %d files to bring from the hub (%.1f GB) to %s", len(missing), len(entries), size / 1e9, path)
    return missing


def _bring(dataset: str, entry: _Entry, path: str) -> None:
    """One file: downloaded beside its place, where a part of it is kept if this is killed, and then put in it."""
    from huggingface_hub import hf_hub_download

    if storage.is_remote(path):
        beside = os.path.join(tempfile.gettempdir(), f"rdd-hub-{os.getuid()}-{sha256_bytes(path.encode())[:16]}")
    else:
        beside = storage.join(storage.absolute(path), ".hub")
    downloaded = hf_hub_download(dataset, entry.name, repo_type="dataset", local_dir=beside)
    if storage.is_remote(path):
        with storage.atomic_output(entry.target) as stream, open(downloaded, "rb") as file:
            shutil.copyfileobj(file, stream, 2**24)
        os.unlink(downloaded)
    else:
        target = storage.absolute(entry.target)
        os.makedirs(posixpath.dirname(target), exist_ok=True)
        os.replace(downloaded, target)


def _probe(address: str, what: str, way_out: str) -> None:
    """Say within seconds that nothing answers, where the hub's own client would try for minutes."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PROBE_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        raise RuntimeError(f"{what} ({error}); {way_out}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
