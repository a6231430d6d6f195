"""A folder ``real/`` + ``fake/<generator>/``: each image is a record of its own."""

import logging
import posixpath
from collections.abc import Iterator

import pyarrow as pa

from rdd import storage
from rdd.data.image_files import read_files
from rdd.data.index import make_index
from rdd.schema import REAL

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class FolderSource:
    """Images below ``real/`` and ``fake/<generator>/``; each image is a record of its own, named by its path.

    Args:
        path: the folder, local or on S3.

    Raises:
        ValueError: there is no such folder, no image in it, or an image directly below ``fake/``.
    """

    def __init__(self, path: str) -> None:
        self._root = storage.absolute(path)
        files = [file.path for file in storage.list_files(path)]
        names = [file[len(self._root) + 1 :] for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        self._names = [name for name in names if name.split("/")[0] in ("real", "fake")]
        if not self._names:
            raise ValueError(f"no image below real/ or fake/<generator>/ in {path}")
        if left_out := len(files) - len(self._names):
            logger.info("%d files of %s are left out: outside real/ and fake/, or no images by their ending", left_out, path)
        if any(name.startswith(f"fake/{REAL}/") for name in self._names):
            raise ValueError(f"{path}/fake/{REAL} must have another name, since {REAL!r} names what is not generated")
        loose = [name for name in self._names if name.startswith("fake/") and name.count("/") < 2]
        if loose:
            raise ValueError(f"{path}/{loose[0]} must lie in fake/<generator>/, so that its generator is known")

    has_text = False

    def index(self) -> pa.Table:
        """One row an image, sorted by path."""
        generators = [REAL if name.startswith("real/") else name.split("/")[1] for name in self._names]
        return make_index(
            {
                "key": self._names,
                "source": [self._root] * len(self._names),
                "row": list(range(len(self._names))),
                "rows": [[row] for row in range(len(self._names))],
                "record_id": self._names,
                "paths": [[posixpath.join(self._root, name)] for name in self._names],
                "generators": [[generator] for generator in generators],
            }
        )

    def read(self, index: pa.Table) -> Iterator[pa.Table]:
        """Bytes of the images of some records."""
        return read_files(index)
