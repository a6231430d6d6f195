"""The test folders of D3's authors (CoDE), ``{augm,no_augm}/{real,gen_0,gen_1,gen_2,gen_3}/``: images of one name are a record.

How the files are named is published nowhere, so little is taken for granted: images with the same name in several folders, but
for its ending, are one record, and an image that is alone is a record as well. A name may end in that of its folder, as in an
example in the authors' repository (``7_real.jpg``, ``7_gen0.png``). An image and its augmented copy have the same name too, so
that they are one record, and no split can part them; embedded one by one, both folders give records of the same ids.
"""

import itertools
import logging
import posixpath
import re

import numpy as np
import pyarrow as pa

from rdd.data.folder import list_images, printable
from rdd.data.image_files import FileReader
from rdd.data.index import images_of_files, make_index
from rdd.schema import REAL

logger = logging.getLogger(__name__)

_VARIANTS = ("no_augm", "augm")
_FOLDER = re.compile(r"real|gen_([0-9]+)")
_MODELS = ("DeepFloyd IF", "Stable Diffusion 1.4", "Stable Diffusion 2.1", "Stable Diffusion XL")
"""Of ``gen_0`` to ``gen_3``, in D3's order."""


class D3TestSource:
    """Images in the layout of the authors' test set, as a whole or one of its two folders.

    Args:
        path: ``d3_test``, or ``augm`` or ``no_augm`` in it, local or on S3.
        root: folder that every file must lie in, where links lead to as well; ``any`` for everywhere, by default ``path``.

    Raises:
        ValueError: there is no such folder, no image in the layout, or a link to a folder elsewhere.
    """

    has_text = False
    images_per_row = 1

    def __init__(self, path: str, root: str = "") -> None:
        images = list_images(path, root)
        self._root = images.root
        self.reader = FileReader(root or images.root)
        self._records: dict[str, list[str]] = {}
        for name in images.names:
            if (record := _record_of(name)) is not None:
                self._records.setdefault(record, []).append(name)
        if not self._records:
            raise ValueError(f"no image below real/ or gen_<i>/ in {path}, nor in its folders augm/ or no_augm/")
        if left_out := images.files - sum(map(len, self._records.values())):
            logger.info("%d files of %s are left out: outside the layout, or no images by their ending", left_out, path)

    def images_of(self, index: pa.Table) -> np.ndarray:
        """``(N,)`` images of each record."""
        return images_of_files(index)

    def index(self) -> pa.Table:
        """One row a record, sorted by name."""
        records = sorted(self._records)
        images = [sorted(self._records[record], key=_order) for record in records]
        shown = [printable(record) for record in records]
        odd = [any(printable(name) != name for name in names) for names in images]
        ends = list(itertools.accumulate(map(len, images), initial=0))
        return make_index(
            {
                "key": shown,
                "source": [self._root] * len(records),
                "row": ends[:-1],
                "rows": [list(range(first, last)) for first, last in itertools.pairwise(ends)],
                "record_id": shown,
                "paths": [[posixpath.join(self._root, printable(name)) for name in names] for names in images],
                "generators": [[_generator_of(name) for name in names] for names in images],
                "stage": ["index" if is_odd else None for is_odd in odd],
                "reason": ["name_not_utf8" if is_odd else None for is_odd in odd],
                "detail": ["rename the file" if is_odd else None for is_odd in odd],
            }
        )


def _parts(name: str) -> tuple[str, str, str] | None:
    """Variant (or nothing), folder, and path in it; None for what lies outside the layout."""
    variant, _, inner = name.partition("/")
    if variant not in _VARIANTS:
        variant, inner = "", name
    folder, _, rest = inner.partition("/")
    return (variant, folder, rest) if rest and _FOLDER.fullmatch(folder) else None


def _record_of(name: str) -> str | None:
    """Id of an image's record: its path in the folder without ending, and without the folder's own name at its end."""
    if (parts := _parts(name)) is None:
        return None
    _, folder, rest = parts
    stem = posixpath.splitext(rest)[0]
    own = re.escape(folder).replace("_", "_?")
    return re.sub(rf"(?<=[^/])[_-]{own}$", "", stem)


def _order(name: str) -> tuple[int, str, str]:
    """Originals before augmented copies, and in each the real image first."""
    parts = _parts(name)
    assert parts is not None
    variant, folder, rest = parts
    return int(variant == "augm"), "" if folder == "real" else folder, rest


def _generator_of(name: str) -> str:
    parts = _parts(name)
    assert parts is not None
    match = _FOLDER.fullmatch(parts[1])
    assert match is not None
    if match[1] is None:
        return REAL
    number = int(match[1])
    return _MODELS[number] if number < len(_MODELS) else parts[1]
