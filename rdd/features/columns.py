"""The named features of a set as its manifest describes them, and which of them lie in which matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdd.feature_names import PROJECTED, TEXTS, is_image_feature, split_view, view_name

DTYPES: dict[str, np.dtype] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
"""In which a feature may be kept."""

TEXT = "text"
"""Name of the matrix of prompts."""


@dataclass(frozen=True)
class Column:
    """A feature as it lies in the files."""

    stored: str
    """Name of its column."""
    width: int
    dtype: np.dtype

    @property
    def vector_bytes(self) -> int:
        """Of one vector."""
        return self.width * self.dtype.itemsize


Layout = dict[str, tuple[Column, ...]]
"""By name of a matrix, the columns that lie in it below each other: each input alone, each input of each view alone, and under
:data:`TEXT` the original prompts of all records, then the positive ones."""


def columns_of(manifest: dict[str, Any]) -> dict[str, Column]:
    """Every feature of a set by its name; a set of the first layout holds ``projected``, in a column of another name."""
    if "features" not in manifest:
        names = {PROJECTED: "image_features"} | {name: name for name in TEXTS if manifest["text"]}
        width, dtype = manifest["embed_dim"], DTYPES[manifest["dtype"]]
        return {name: Column(stored, width, dtype) for name, stored in names.items()}
    described = manifest["features"].items()
    return {name: Column(name, one["width"], DTYPES[one["dtype"]]) for name, one in described}


def layout_of(path: str, manifest: dict[str, Any], inputs: Sequence[str], *, text: bool, views: int = 0) -> Layout:
    """The matrices that some inputs need, in the order of a batch's columns; those of views come before the prompts.

    Args:
        path: of the features, for the error.
        manifest: of the features.
        inputs: names of features of images.
        text: whether those of the prompts are wanted, where the set holds them.
        views: of each image, how many are wanted.

    Raises:
        ValueError: the set does not hold an input, and those that it holds are named; or it does not hold so many views.
    """
    columns = columns_of(manifest)
    if lacking := [name for name in inputs if name not in columns]:
        held = ", ".join(filter(is_image_feature, columns))
        raise ValueError(
            f"features.inputs must name features that {path} holds, {held}, got {', '.join(lacking)}; "
            "clip.blocks names the blocks that jobs/embed.py keeps"
        )
    of_views = [view_name(name, view) for view in range(1, 1 + views) for name in inputs]
    if lacking := [name for name in of_views if name not in columns]:
        there = split_view(lacking[0])[1] - 1
        raise ValueError(
            f"features.views must be at most {there}, the views of {', '.join(inputs)} that {path} holds, got {views}; "
            "embed.views is how many jobs/embed.py keeps"
        )
    layout: Layout = {name: (columns[name],) for name in (*inputs, *of_views)}
    if text and manifest["text"]:
        layout[TEXT] = tuple(columns[name] for name in TEXTS)
    return layout


def shape_of(columns: tuple[Column, ...], name: str, *, images: int, records: int) -> tuple[int, int]:
    """Shape of the matrix of some columns."""
    return (len(columns) * records if name == TEXT else images), columns[0].width


def inputs_of(layout: Layout) -> dict[str, int]:
    """Names and widths of the inputs, without those of views."""
    return {name: columns[0].width for name, columns in layout.items() if name != TEXT and not split_view(name)[1]}


def views_of(layout: Layout) -> int:
    """How many views of each image there are."""
    return max(split_view(name)[1] for name in layout)


def width_of(layout: Layout) -> int:
    """Columns of all matrices, of a prompt once."""
    return sum(columns[0].width for columns in layout.values())


def layout_of_batch(layout: Layout, *, text: bool, view: int) -> Layout:
    """The part of a layout that a batch takes: the inputs, with a view those of it, and with ``text`` the prompts."""
    views = (0, view)
    kept = {name: columns for name, columns in layout.items() if name != TEXT and split_view(name)[1] in views}
    return kept | ({TEXT: layout[TEXT]} if text and TEXT in layout else {})


def bytes_of(layout: Layout, manifest: dict[str, Any]) -> int:
    """Size of the matrices of a layout."""
    images, records = manifest["images"], manifest["records_written"]
    shapes = {name: shape_of(columns, name, images=images, records=records) for name, columns in layout.items()}
    return sum(rows * layout[name][0].vector_bytes for name, (rows, _) in shapes.items())


def flaw_of_features(described: Any, *, text: bool) -> str | None:
    """What is wrong with the features that a manifest describes, as the end of a sentence; None where nothing is."""
    if not isinstance(described, dict) or not any(map(is_image_feature, described)):
        return f"features must be a mapping with a feature of images, got {described!r}"
    texts = set(TEXTS) if text else set()
    if unknown := [name for name in described if not is_image_feature(split_view(name)[0]) and name not in texts]:
        return f"features must be those of images{' and prompts' if text else ''}, got {', '.join(unknown)}"
    if missing := texts - set(described):
        return f"features must hold {', '.join(sorted(missing))} where text is true"
    for name, one in described.items():
        if not isinstance(one, dict) or type(one.get("width")) is not int or one["width"] < 1:
            return f"features.{name}.width must be at least 1, got {one!r}"
        if one.get("dtype") not in DTYPES:
            return f"features.{name}.dtype must be one of {', '.join(DTYPES)}, got {one.get('dtype')!r}"
    if text and described[TEXTS[0]] != described[TEXTS[1]]:
        return f"features must have prompts of one width and dtype, got {described[TEXTS[0]]} and {described[TEXTS[1]]}"
    return None
