"""Image folders of other people's sets, read as they are: what each set's paths say of an image.

A further layout is a function from a path to :class:`Placed`, and a line in :data:`LAYOUTS`.
"""

import itertools
import logging
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rdd.data.folder import list_images, printable
from rdd.data.image_files import FileReader
from rdd.data.index import images_of_files, make_index
from rdd.schema import REAL

logger = logging.getLogger(__name__)

_PARTS = ("train", "val", "test")
_MARKS = ("0_real", "1_fake")
_PROGAN_PARTS = ("train", "val", "progan_train", "progan_val")
_AIGIBENCH_CATEGORIES = ("car", "cat", "chair", "horse")


@dataclass(frozen=True)
class Placed:
    """What the path of an image says of it."""

    record: str
    """Id of its record."""
    generator: str
    """What made it; ``real`` for a real one."""


@dataclass(frozen=True)
class Layout:
    """How a set lays its images out."""

    shape: str
    """Its folders, for a person."""
    place: Callable[[str], Placed | None]
    """Of a path below the set's folder; None for what lies outside the layout."""


def cnn_detection(name: str) -> Placed | None:
    """``<generator>/[<category>/]{0_real,1_fake}/...``; an image is a record of its own.

    ForenSynths, the set of CNNDetection (peterwang512/CNNDetection), and in the same form UnivFD's diffusion sets
    (Yuheng-Li/UniversalFakeDetect, where the real images lie in folders of their own, such as ``imagenet/0_real/``).
    Of the training part, ``train/<category>/``, everything generated is by ProGAN.
    """
    *folders, _ = name.split("/")
    marks = [folder for folder in folders if folder in _MARKS]
    if len(marks) != 1 or folders.index(marks[0]) == 0:
        return None
    generator = "progan" if folders[0] in _PROGAN_PARTS else _without(folders, _PARTS)[0]
    if generator in marks:  # test/1_fake/ alone
        return None
    return Placed(name, REAL if marks == ["0_real"] else generator)


def aigibench(name: str) -> Placed | None:
    """``test/<generator>/{0_real,1_fake}/...`` and ``{train,val}/<category>/{0_real,1_fake}/...``; an image is a record.

    AIGIBench (HorizonTEL/AIGIBench, arXiv 2505.12335) as its archives unpack, or one of its parts. What is generated of the
    categories car, cat, chair and horse is ForenSynths' by ProGAN; beside them ``sdv1.4`` is GenImage's.
    """
    *folders, _ = _without(name.split("/"), _PARTS)
    marks = [place for place, folder in enumerate(folders) if folder in _MARKS]
    if len(marks) != 1 or marks[0] == 0:
        return None
    generator = "ProGAN" if folders[0] in _AIGIBENCH_CATEGORIES else folders[0]
    return Placed(name, REAL if folders[marks[0]] == "0_real" else generator)


def genimage(name: str) -> Placed | None:
    """``<generator>/[imagenet_.../]{train,val}/{ai,nature}/...``; an image is a record of its own.

    GenImage (GenImage-Dataset/GenImage) as its archives unpack, and a single archive, ``imagenet_ai_0419_sdv4/``.
    """
    *folders, _ = name.split("/")
    for place, (part, kind) in enumerate(itertools.pairwise(folders)):
        if part in ("train", "val") and kind in ("ai", "nature") and place > 0:
            return Placed(name, REAL if kind == "nature" else folders[0])
    return None


def synthbuster(name: str) -> Placed | None:
    """``<generator>/<photograph>.png``, and the photographs in ``real/`` or ``RAISE/``: those of one name are a record.

    Synthbuster (Bammey, IEEE OJSP 2024) has generated images alone, named by the photograph of RAISE-1k that each was made
    after; who evaluates on it puts these beside.
    """
    folder, _, rest = name.rpartition("/")
    if not folder or "/" in folder:
        return None
    real = folder.lower() in (REAL, "raise", "raise-1k", "raise_1k")
    return Placed(posixpath.splitext(rest)[0], REAL if real else folder)


LAYOUTS: Mapping[str, Layout] = {
    "cnn_detection": Layout("<generator>/[<category>/]{0_real,1_fake}/", cnn_detection),
    "aigibench": Layout("<generator>/{0_real,1_fake}/ below test/, train/ or val/", aigibench),
    "genimage": Layout("<generator>/[imagenet_.../]{train,val}/{ai,nature}/", genimage),
    "synthbuster": Layout("<generator>/, with the photographs in real/ or RAISE/", synthbuster),
}
"""By ``records.kind``."""


class LayoutSource:
    """The images of a set in one of :data:`LAYOUTS`.

    Args:
        kind: which layout.
        path: the folder, local or on S3.
        root: folder that every file must lie in, where links lead to as well; ``any`` for everywhere, by default ``path``.

    Raises:
        ValueError: there is no such folder, no image in the layout, or a link to a folder elsewhere.
    """

    has_text = False
    images_per_row = 1

    def __init__(self, kind: str, path: str, root: str = "") -> None:
        layout, images = LAYOUTS[kind], list_images(path, root)
        self._root = images.root
        self.reader = FileReader(root or images.root)
        found = {name: layout.place(name) for name in images.names}
        self._placed = {name: placed for name, placed in found.items() if placed is not None}
        if not self._placed:
            raise ValueError(f"no image in {path} lies as records.kind {kind} has it, in {layout.shape}")
        if left_out := images.files - len(self._placed):
            logger.info("%d files of %s are left out: outside the layout, or no images by their ending", left_out, path)

    def images_of(self, index: pa.Table) -> np.ndarray:
        """``(N,)`` images of each record."""
        return images_of_files(index)

    def index(self) -> pa.Table:
        """One row a record, sorted by id; the real image of a record comes first."""
        records: dict[str, list[str]] = {}
        for name in sorted(self._placed, key=lambda name: (self._placed[name].generator != REAL, name)):
            records.setdefault(self._placed[name].record, []).append(name)
        ids = sorted(records)
        ends = list(itertools.accumulate((len(records[one]) for one in ids), initial=0))
        odd = [any(printable(name) != name for name in records[one]) for one in ids]
        return make_index(
            {
                "key": [printable(one) for one in ids],
                "source": [self._root] * len(ids),
                "row": ends[:-1],
                "rows": [list(range(first, last)) for first, last in itertools.pairwise(ends)],
                "record_id": [printable(one) for one in ids],
                "paths": [[posixpath.join(self._root, printable(name)) for name in records[one]] for one in ids],
                "generators": [[printable(self._placed[name].generator) for name in records[one]] for one in ids],
                "stage": ["index" if is_odd else None for is_odd in odd],
                "reason": ["name_not_utf8" if is_odd else None for is_odd in odd],
                "detail": ["rename the file" if is_odd else None for is_odd in odd],
            }
        )


def _without(folders: list[str], parts: tuple[str, ...]) -> list[str]:
    """Folders without that of a part of the set in front."""
    return folders[1:] if folders[0] in parts else folders
