"""What ``features.path`` names: a directory that jobs/embed.py wrote, or several that are joined by record."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.encoder_identity import differences
from rdd.features.columns import TEXT, Layout, columns_of, inputs_of, layout_of
from rdd.features.files import Allocate, OnProgress, allocated, copy_columns, feature_files, ignored, in_memory, read_columns
from rdd.features.index import FileIndex, ImageIndex, check_counts, check_rows, index_images, read_index
from rdd.features.join import Joined, Part, join
from rdd.features.manifest import degradation_of, encoder_of, identity_of, read_manifest, view_degradation_of
from rdd.hashing import sha256_bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """One directory of a feature set."""

    path: str
    manifest: dict[str, Any]
    manifest_sha256: str
    """Of the manifest's file."""


@dataclass(frozen=True)
class FeatureSet:
    """One directory of features, or several of one encoder: further records, further images of them, or further features."""

    members: tuple[Member, ...]

    @classmethod
    def open(cls, path: str | Sequence[str]) -> "FeatureSet":
        """Read the manifests.

        Args:
            path: a directory, or several.

        Raises:
            ValueError: there is no finished embedding, or they are not of one encoder and one precision.
            RuntimeError: a manifest is torn, or a field of it is wrong.
        """
        paths = [path] if isinstance(path, str) else list(path)
        members = tuple(Member(one, *read_manifest(one)) for one in paths)
        for other in members[1:]:
            _check_encoder(members[0], other)
            _check_degradation(members[0], other)
        return cls(members)

    @property
    def name(self) -> str:
        """The directories, for logs and errors."""
        return ", ".join(member.path for member in self.members)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Of the only directory; of several, what they hold together, its counts as large as they can be."""
        if len(self.members) == 1:
            return self.members[0].manifest
        manifests = [member.manifest for member in self.members]
        features: dict[str, Any] = {}
        for manifest in manifests:
            for name, column in columns_of(manifest).items():
                features.setdefault(name, {"width": column.width, "dtype": column.dtype.name})
        return manifests[0] | {
            "features": features,
            "text": any(manifest["text"] for manifest in manifests),
            "records_written": sum(manifest["records_written"] for manifest in manifests),
            "images": sum(manifest["images"] for manifest in manifests),
        }

    @property
    def manifest_sha256(self) -> str:
        """Of the manifest's file; of several, of their hashes."""
        hashes = [member.manifest_sha256 for member in self.members]
        return hashes[0] if len(hashes) == 1 else sha256_bytes(json.dumps(hashes).encode())

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the manifest, and the names and sizes of the files: features embedded anew have another."""
        identities = [identity_of(member.path, member.manifest) for member in self.members]
        return identities[0] if len(identities) == 1 else sha256_bytes(json.dumps(identities).encode())

    def written(self) -> list[int]:
        """When each file of features was last written, in nanoseconds since 1970."""
        return [file.written_ns for member in self.members for file in storage.list_files(storage.join(member.path, "data"))]

    def layout(self, inputs: Sequence[str], *, text: bool, views: int = 0) -> Layout:
        """The matrices that some inputs need, see :func:`rdd.features.columns.layout_of`.

        Args:
            inputs: names of features of images.
            text: whether those of the prompts are wanted, where they are held.
            views: of each image, how many are wanted.

        Raises:
            ValueError: an input is not held, or not so many views, or the views of two directories were degraded in two ways.
        """
        for other in self.members[1:] if views else ():
            _check_views(self.members[0], other)
        return layout_of(self.name, self.manifest, inputs, text=text, views=views)

    def read(
        self,
        layout: Layout,
        allocate: Allocate = in_memory,
        *,
        only: Sequence[str] | None = None,
        on_progress: OnProgress = ignored,
    ) -> tuple[dict[str, np.ndarray], ImageIndex]:
        """Matrices of a layout, and the images that their rows belong to.

        Args:
            layout: of :meth:`layout`; with several directories it decides which images there are, those with all inputs.
            allocate: makes the matrices.
            only: names of the matrices to read; by default all.
            on_progress: told of each file.

        Raises:
            ValueError: the directories can not be joined, see :func:`rdd.features.join.join`.
            RuntimeError: the files are not what a manifest says.
        """
        wanted = {name: columns for name, columns in layout.items() if only is None or name in only}
        if len(self.members) == 1:
            columns = read_columns(feature_files(self.members[0].path), wanted, allocate, on_progress=on_progress)
            return columns.matrices, index_images(self.members[0].path, columns.index, self.members[0].manifest)
        parts, joined = self._joined(layout)
        images, records = len(joined.index.order), len(joined.index.record_ids)
        matrices = allocated(wanted, images=images, records=records, allocate=allocate)
        for member, part, rows in zip(self.members, parts, joined.rows, strict=True):
            share = {name: columns for name, columns in _share(member, layout).items() if name in wanted}
            copy_columns(part.index, share, matrices, rows=rows, on_progress=on_progress)
        return matrices, joined.index

    def read_index(self, layout: Layout) -> tuple[list[FileIndex], ImageIndex]:
        """What there is besides the features, for those who read them file by file: the rows of images follow the files.

        Args:
            layout: of :meth:`layout`.

        Returns:
            Of each directory what its files hold, and the images.

        Raises:
            ValueError: a directory lacks a part of the layout.
            RuntimeError: the files are not what a manifest says.
        """
        if len(self.members) == 1:
            index = read_index(feature_files(self.members[0].path), layout)
            return [index], index_images(self.members[0].path, index, self.members[0].manifest)
        for member in self.members:
            if _share(member, layout) != layout:
                raise ValueError(
                    f"features.held must be map or device where not every directory holds {', '.join(layout)}, "
                    f"got stream for {self.name}"
                )
        parts, joined = self._joined(layout)
        return [part.index for part in parts], joined.index

    def _joined(self, layout: Layout) -> tuple[list[Part], Joined]:
        parts = []
        for member in self.members:
            share = _share(member, layout)
            index = read_index(feature_files(member.path), share)
            check_counts(member.path, index, member.manifest)
            parts.append(Part(member.path, index, set(share)))
        joined = join(parts, [name for name in layout if name != TEXT], text=TEXT in layout)
        there = len(joined.index.order)
        check_rows(self.name, images=there, records=len(joined.index.record_ids))
        if left := joined.images_left_out:
            logger.warning(
                "%d images of %s lack one of %s and are left out, %d are there", left, self.name, list(layout), there
            )
        return parts, joined


def _share(member: Member, layout: Layout) -> Layout:
    """The part of a layout that a directory holds, as it is stored there."""
    columns = columns_of(member.manifest)
    inputs = [name for name in layout if name in columns]
    share = layout_of(member.path, member.manifest, inputs, text=TEXT in layout)
    return {name: share[name] for name in layout if name in share}


def _check_encoder(one: Member, other: Member) -> None:
    """Refuse features that one head can not take together, or whose rounding would tell them apart."""
    different = differences(encoder_of(one.manifest), encoder_of(other.manifest))
    if different:
        what = ", ".join(f"{name} {here!r} and {there!r}" for name, (here, there) in different.items())
        raise ValueError(f"features.path must name features of one encoder, got {one.path} and {other.path} with {what}")
    held, further = (columns_of(member.manifest) for member in (one, other))
    for name in held.keys() & further.keys():
        if (held[name].width, held[name].dtype) != (further[name].width, further[name].dtype):
            kinds = " and ".join(f"{place[name].dtype} of width {place[name].width}" for place in (held, further))
            raise ValueError(f"{name} must be of one type in {one.path} and {other.path}, got {kinds}")


def _check_degradation(one: Member, other: Member) -> None:
    """Refuse to join clean images with degraded ones, or ones that were degraded in two ways."""
    must = "features.path must name features of images that are degraded in one way (embed.degrade)"
    _check_same(degradation_of, one, other, must)


def _check_views(one: Member, other: Member) -> None:
    """Refuse to take views together that were degraded in two ways."""
    must = "features.views must be 0 for directories with views that were degraded in two ways (embed.view_degrade)"
    _check_same(view_degradation_of, one, other, must)


def _check_same(of: Callable[[dict[str, Any]], str], one: Member, other: Member, must: str) -> None:
    here, there = of(one.manifest), of(other.manifest)
    if here != there:
        raise ValueError(f"{must}, got {one.path} with {here} and {other.path} with {there}")


def identity_if_there(path: str | Sequence[str]) -> str | None:
    """Identity of the features at ``features.path``; None where one of its directories is gone."""
    paths = [path] if isinstance(path, str) else path
    there = all(storage.exists(storage.join(one, "manifest.json")) for one in paths)
    return FeatureSet.open(path).identity if there else None


def check_inputs(config: FeaturesConfig) -> list[int]:
    """Refuse inputs that the feature set of a config does not hold, before any work.

    Returns:
        The width of each input.

    Raises:
        ValueError: there is no finished embedding, or it lacks an input or views; what it holds is named.
        RuntimeError: the manifest is torn, or a field of it is wrong.
    """
    layout = FeatureSet.open(config.path).layout(config.inputs, text=False, views=config.views)
    return list(inputs_of(layout).values())
