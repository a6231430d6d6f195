"""Which source of records a config names; a further source is a class like these and a line in :func:`open_source`."""

from typing import Protocol

import numpy as np
import pyarrow as pa

from rdd.config import RecordsConfig
from rdd.data.d3 import D3Source
from rdd.data.d3_test import D3TestSource
from rdd.data.file_sets import names_many
from rdd.data.folder import FolderSource
from rdd.data.layouts import LAYOUTS, LayoutSource
from rdd.data.manifest import ManifestSource
from rdd.data.openfake import OpenFakeSource
from rdd.data.records import Reader


class Source(Protocol):
    """A set of labelled images, in records."""

    has_text: bool
    """Whether records have prompts."""

    images_per_row: int
    """Images in one of a record's ``rows``."""

    def index(self) -> pa.Table:
        """One row a record (``schema.INDEX``), in a fixed order, with null and duplicate ids already marked.

        Raises:
            ValueError: there is nothing to read, or a column is missing or of another type.
        """

    def images_of(self, index: pa.Table) -> np.ndarray:
        """``(N,)`` images of each record of an index, as far as that is known before they are read; 0 of a rejected one."""

    @property
    def reader(self) -> Reader:
        """Reads the records of some index rows, all of one ``source`` (tables of ``schema.RAW``, a few rows each).

        It travels to every task that reads, so it holds what reading needs and not the listing of the set.
        """


def open_source(config: RecordsConfig, *, require_all_generated: bool = False) -> Source:
    """The source that a config names.

    Args:
        config: which.
        require_all_generated: of D3, reject a record that lacks one of its generated images.

    Raises:
        ValueError: ``records.path`` is not given, does not exist, or names many files where the kind takes one place.
    """
    if not config.path:
        raise ValueError("records.path must name the records to embed, got nothing")
    if config.kind not in ("d3", "openfake") and names_many(config.path):
        one = "one table" if config.kind == "manifest" else "one folder"
        raise ValueError(
            f"records.path must be {one} when records.kind is {config.kind}, got {config.path}; "
            "a manifest may name images of several places"
        )
    if config.kind == "d3":
        return D3Source(config.path, config.real_images, require_all_generated=require_all_generated)
    if config.kind == "folder":
        return FolderSource(config.path, config.root)
    if config.kind == "d3_test":
        return D3TestSource(config.path, config.root)
    if config.kind == "openfake":
        return OpenFakeSource(config.path)
    if config.kind in LAYOUTS:
        return LayoutSource(config.kind, config.path, config.root)
    return ManifestSource(config.path, config.root)
