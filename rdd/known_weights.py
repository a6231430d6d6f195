"""Which file holds the weights that a detector names by their SHA-256, among those that were put on this machine.

``jobs/weights.py`` leaves a note of each file that it writes, ``rdd/weights.json`` in the user's cache directory. A file is
taken for its hash alone: what a note says of a file that has changed since is worth nothing.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rdd import storage
from rdd.clip_weights import RANDOM, cached_hub_file, digest_of

logger = logging.getLogger(__name__)

BESIDE = os.path.join("data", "weights")
"""Folder below the working directory that is looked through, too: the named runs write there."""

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


def notes_path() -> str:
    """The file of notes: by SHA-256 of the weights, the absolute path of the file that holds them."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "rdd", "weights.json")


def note_weights(digest: str, path: str) -> None:
    """Note where weights lie; where no note can be left, the log says so, and they must be given by their path.

    Args:
        digest: SHA-256 of the file.
        path: where it lies.
    """
    place = notes_path()
    try:
        with _only_writer(place):
            kept = {sha256: file for sha256, file in _notes().items() if os.path.isfile(file)}
            storage.write_json(place, kept | {digest: os.path.abspath(path)})
    except (OSError, RuntimeError) as error:
        logger.warning("no note of %s could be left in %s (%s); give it by --weights where it is asked for", path, place, error)


def find_weights(identity: Mapping[str, Any], given: str = "", *, option: str = "--weights") -> str:
    """The file of an encoder's weights on this machine, found by their SHA-256.

    Args:
        identity: fields of an :class:`rdd.encoder_identity.EncoderIdentity`, as a detector keeps them.
        given: the file, where the user names it; no other is looked for.
        option: what names it, for errors.

    Returns:
        The file's absolute path, or ``random`` for seeded weights, which lie in no file.

    Raises:
        ValueError: the file that was given is not there or holds other weights, or none is found.
    """
    digest = identity["weights_sha256"]
    if given:
        return _checked(given, digest, option)
    if identity["pretrained"] == RANDOM:
        return RANDOM
    for path in _candidates(identity):
        if digest_of(path) == digest:
            return path
    raise ValueError(
        f"the weights of {identity['model']} that the detector was trained with ({identity['pretrained']}, sha256 "
        f"{digest[:12]}...) are not among those that jobs/weights.py has noted in {notes_path()}, nor in ./{BESIDE}; give "
        f"their file by {option}, or fetch them: python jobs/weights.py --config FILE.yaml, with the config of the training"
    )


def _checked(given: str, digest: str, option: str) -> str:
    path = os.path.abspath(os.path.expanduser(given))
    if not os.path.isfile(path):
        raise ValueError(f"no file of weights at {given}")
    if (found := digest_of(path)) != digest:
        raise ValueError(
            f"{given} holds other weights (sha256 {found[:12]}...) than the detector was trained with ({digest[:12]}...); "
            f"give those, or leave {option} out to look for them"
        )
    return path


def _candidates(identity: Mapping[str, Any]) -> Iterator[str]:
    """Files that may hold the weights, the likeliest first."""
    noted = _notes().get(identity["weights_sha256"])
    if noted is not None and os.path.isfile(noted):
        yield noted
    for path in sorted(Path(BESIDE).glob("*")):
        if path.suffix in _SUFFIXES and path.is_file():
            yield str(path.absolute())
    cached = cached_hub_file(identity["model"], identity["pretrained"])
    if cached is not None:
        yield cached


def _notes() -> dict[str, str]:
    """The notes; none where the file is missing, and none, with a word in the log, where it is damaged."""
    place = notes_path()
    try:
        notes = json.loads(Path(place).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s can not be read (%s), so no weights are found by it; jobs/weights.py writes it anew", place, error)
        return {}
    if not isinstance(notes, dict):
        logger.warning("%s holds no notes, so no weights are found by it; jobs/weights.py writes it anew", place)
        return {}
    return {sha256: file for sha256, file in notes.items() if isinstance(file, str)}


@contextlib.contextmanager
def _only_writer(place: str) -> Iterator[None]:
    """Within it no other process of this user writes the file."""
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(f"{place}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
