"""A folder ``real/`` + ``fake/<generator>/``: each image is a record of its own."""

import logging
import os
import posixpath
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import pyarrow as pa

from rdd import storage
from rdd.data.image_files import FileReader, lies_below
from rdd.data.index import images_of_files, make_index
from rdd.schema import REAL

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder."""

    root: str
    """The folder."""
    names: list[str]
    """Paths below it of its images, by their ending, sorted."""
    files: int
    """How many files there are, with those that are no images."""


def list_images(path: str, root: str = "") -> FolderImages:
    """The images below a folder, local or on S3, but for hidden ones.

    A link to a folder is followed only to where records may lie, and not where it leads back into the set.

    Args:
        path: the folder.
        root: folder that links must lead into; ``any`` for everywhere, by default ``path``.

    Raises:
        ValueError: there is no such folder, one can not be listed, or a link leads to a folder elsewhere.
    """
    folder = storage.absolute(path)
    if storage.is_remote(path):
        files = [file.path for file in storage.list_files(path)]
    elif os.path.isdir(folder):
        files = _local_files(folder, root or folder)
    else:
        raise ValueError(f"no directory at {path}")
    names = [file[len(folder) + 1 :] for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
    return FolderImages(folder, names, len(files))


class FolderSource:
    """Images below ``real/`` and ``fake/<generator>/``; each image is a record of its own, named by its path.

    A link to a folder is followed only to where records may lie, and not where it leads back into the set: its images would
    come in twice, under another generator.

    Args:
        path: the folder, local or on S3.
        root: folder that every file must lie in, where links lead to as well; ``any`` for everywhere, by default ``path``.

    Raises:
        ValueError: there is no such folder, no image in it, an image directly below ``fake/``, or a link to a folder elsewhere.
    """

    def __init__(self, path: str, root: str = "") -> None:
        images = list_images(path, root)
        self._root, names = images.root, images.names
        self.reader = FileReader(root or self._root)
        self._names = [name for name in names if name.split("/")[0] in ("real", "fake")]
        if not self._names:
            raise ValueError(f"no image below real/ or fake/<generator>/ in {path}")
        if left_out := images.files - len(self._names):
            logger.info("%d files of %s are left out: outside real/ and fake/, or no images by their ending", left_out, path)
        if any(name.startswith(f"fake/{REAL}/") for name in self._names):
            raise ValueError(f"{path}/fake/{REAL} must have another name, since {REAL!r} names what is not generated")
        loose = [name for name in self._names if name.startswith("fake/") and name.count("/") < 2]
        if loose:
            raise ValueError(f"{path}/{loose[0]} must lie in fake/<generator>/, so that its generator is known")

    has_text = False
    images_per_row = 1

    def images_of(self, index: pa.Table) -> np.ndarray:
        """``(N,)`` images of each record."""
        return images_of_files(index)

    def index(self) -> pa.Table:
        """One row an image, sorted by path."""
        generators = [REAL if name.startswith("real/") else name.split("/")[1] for name in self._names]
        shown = [printable(name) for name in self._names]
        odd = [name != here for name, here in zip(self._names, shown, strict=True)]
        return make_index(
            {
                "key": shown,
                "source": [self._root] * len(self._names),
                "row": list(range(len(self._names))),
                "rows": [[row] for row in range(len(self._names))],
                "record_id": shown,
                "paths": [[posixpath.join(self._root, name)] for name in shown],
                "generators": [[printable(generator)] for generator in generators],
                "stage": ["index" if is_odd else None for is_odd in odd],
                "reason": ["name_not_utf8" if is_odd else None for is_odd in odd],
                "detail": ["rename the file" if is_odd else None for is_odd in odd],
            }
        )


def printable(name: str) -> str:
    """The name as it can be written everywhere: each byte that is no UTF-8 as its number in hexadecimal."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _local_files(folder: str, root: str) -> list[str]:
    """Files below a folder, sorted, but for hidden ones; each folder is gone through once, however many links lead to it.

    Raises:
        ValueError: a link leads to a folder that does not lie in ``root``, or a folder can not be listed.
    """
    files: list[str] = []
    entered = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        files += [os.path.join(place, name) for name in names if not name.startswith(".")]
        shown = [name for name in folders if not name.startswith(".")]
        shown.sort(key=lambda name: (os.path.islink(os.path.join(place, name)), name))  # a folder itself before links to it
        folders[:] = [name for name in shown if _enters(os.path.join(place, name), folder, root, entered)]
    return sorted(files)


def _refuse(error: OSError) -> NoReturn:
    """Images of a folder that can not be listed would be missing from the set, and nobody would notice."""
    raise ValueError(f"{error.filename} can not be listed ({error.strerror}); give this user access, or take it away")


def _enters(inner: str, folder: str, root: str, entered: set[str]) -> bool:
    """Whether to go into a folder below ``folder``, or one that a link leads to; if so it is noted in ``entered``."""
    target, is_link = os.path.realpath(inner), os.path.islink(inner)
    if is_link and not lies_below(root, inner):
        raise ValueError(
            f"{inner} leads to {target}, which does not lie below {root}; set records.root to a folder that holds both, "
            "or to any"
        )
    if target in entered or (is_link and lies_below(folder, inner)):
        logger.warning("%s is left out: its images are in the set already, in %s", inner, target)
        return False
    entered.add(target)
    return True
