"""Features as tensors: Parquet to memory, splits by record, text modes, and the sequence of global batches.

D3's projections and prompts are 25 GB in float16, so every process can index every row: the features of a name are one matrix,
in memory or in a memory map that the processes of a node share, and a batch is a gather by index. Nothing is permuted or copied
per split.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rdd.config import FeaturesConfig
from rdd.feature_names import PROJECTED
from rdd.features.batches import global_batches
from rdd.features.columns import TEXT, Layout, inputs_of, layout_of_batch, views_of
from rdd.features.feature_set import FeatureSet
from rdd.features.files import OnProgress, ignored
from rdd.features.gather import CPU, gather_batches, to_device
from rdd.features.index import ImageIndex, labels_of
from rdd.features.node_map import read_shared
from rdd.features.splits import PARTS, Part, split_with_both_classes
from rdd.features.text_modes import TextMode, prompt_rows, text_mode_for
from rdd.schema import REAL


@dataclass(frozen=True)
class Batch:
    """Rows of a feature table, gathered."""

    features: Tensor
    """``(N, width)`` float32: the inputs of each image, then the features of its text."""
    labels: Tensor
    """``(N,)`` float32: 0 real, 1 generated."""
    copies: int = 1
    """Rows of each image, one after the other: itself, and with 2 a degraded view of it."""


@dataclass(frozen=True)
class FeatureTable:
    """Features of images, indexable by image.

    The order of images is that of their record ids, whatever the order of the files, so that batches do not depend on how
    often the embedding was interrupted.
    """

    layout: Layout
    """What lies in which matrix, in the order of a batch's columns."""
    matrices: dict[str, Tensor]
    """Of each input, and each input of a view, ``(M, width)`` of M images in the order of the files; with text under ``text``
    ``(2 R, D)``, the original prompts of R records, then the positive ones. float16, or float32 for features that are kept in
    it."""
    order: Tensor
    """``(M,)`` int32: row of each image, sorted by record id."""
    record_of: Tensor
    """``(M,)`` int32: record of each image, as ``record_ids`` counts them."""
    labels: Tensor
    """``(M,)`` uint8 of each image: 0 real, 1 generated."""
    generator_of: Tensor
    """``(M,)`` int16 of each image: position in ``generators``."""
    generators: tuple[str, ...]
    """Names, ``real`` first."""
    record_ids: pa.StringArray
    """Of each record, in the order of the files."""
    manifest: dict[str, Any]
    """What jobs/embed.py wrote beside the features; of several directories what they hold together."""
    manifest_sha256: str
    """Of the manifest's file."""
    identity: str
    """SHA-256 of the manifest, and the names and sizes of the files: features embedded anew have another."""
    _parts: dict[tuple, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Position in :data:`PARTS` of each record's part, by the settings of the split: hashing D3's ids takes seconds."""

    @property
    def streamed(self) -> bool:
        """Whether the features are read anew each epoch, in an order of their own."""
        return False

    @classmethod
    def load(
        cls,
        path: str | Sequence[str],
        *,
        inputs: Sequence[str] = (PROJECTED,),
        text: bool = True,
        views: int = 0,
        shared: str | None = None,
        on_progress: OnProgress = ignored,
    ) -> "FeatureTable":
        """Read some of what jobs/embed.py wrote.

        Args:
            path: its directory, local or on S3; or several, which are joined by record.
            inputs: names of the features of an image that a batch holds, in this order; no other column is read.
            text: whether the features of prompts are read, where there are any; without them only text mode none is left.
            views: of each image, how many are read, for training.
            shared: local directory for one memory map per node: the first process writes it, all map it. By default the
                features are read into this process's own memory.
            on_progress: told how far the reading is.

        Raises:
            ValueError: there is no finished embedding at ``path``, it lacks an input or views, or several can not be joined.
            RuntimeError: the files are not what the manifest says.
        """
        features = FeatureSet.open(path)
        layout = features.layout(inputs, text=text, views=views)
        if shared:
            matrices, index = read_shared(features, layout, shared, on_progress)
        else:
            matrices, index = features.read(layout, on_progress=on_progress)
        tensors = {name: _tensor(matrices[name]) for name in layout}
        return cls(layout=layout, matrices=tensors, **table_fields(features, index))

    def __len__(self) -> int:
        """Images in the table."""
        return len(self.order)

    @property
    def inputs(self) -> dict[str, int]:
        """Names and widths of the features of an image that a batch holds, in their order."""
        return inputs_of(self.layout)

    @property
    def views(self) -> int:
        """Degraded views of each image that a batch can be asked for."""
        return views_of(self.layout)

    @property
    def has_text(self) -> bool:
        """Whether prompts are there."""
        return TEXT in self.layout

    @property
    def text_width(self) -> int:
        """Columns of the features of a prompt; 0 where there are none."""
        return self.layout[TEXT][0].width if self.has_text else 0

    def width(self, text_mode: str) -> int:
        """Columns of a batch's features."""
        of_text = 0 if self.text_mode(text_mode) == "none" else self.text_width
        return sum(self.inputs.values()) + of_text

    def text_mode(self, wanted: str) -> TextMode:
        """The text mode that ``features.text_mode`` comes to here, see :func:`rdd.features.text_modes.text_mode_for`.

        Raises:
            ValueError: it needs prompts, and the features hold none.
        """
        return text_mode_for(wanted, has_text=self.has_text)

    def split(self, config: FeaturesConfig, part: Part) -> Tensor:
        """Images of a part, all images of a record in one part.

        Args:
            config: split, shares or folds, seed; generators that only the test part may hold.
            part: which.

        Returns:
            ``(n,)`` int64, ascending.

        Raises:
            ValueError: there are too few records for both classes in every part, or none is of a generator to leave out.
        """
        kept = ~self._left_out(config)
        key = (
            *config.leave_out,
            config.split,
            config.split_seed,
            config.validation_share,
            config.test_share,
            config.num_folds,
            config.fold,
        )
        if key not in self._parts:
            has_class = np.zeros((len(self.record_ids), 2), dtype=bool)
            for label in (0, 1):
                has_class[self.record_of.numpy()[(self.labels.numpy() == label) & kept], label] = True
            parts = split_with_both_classes(self.record_ids, has_class, config)
            self._parts[key] = np.select([parts == name for name in PARTS], range(len(PARTS))).astype(np.uint8)
        in_part = self._parts[key] == PARTS.index(part)
        chosen = in_part[self.record_of.numpy()]
        return torch.from_numpy(np.flatnonzero(chosen if part == "test" else chosen & kept))

    def _left_out(self, config: FeaturesConfig) -> np.ndarray:
        """``(M,)`` bool: images of generators that are not to be trained on."""
        if unknown := set(config.leave_out) - set(self.generators):
            there = ", ".join(name for name in self.generators if name != REAL)
            raise ValueError(f"features.leave_out must name generators of these features, {there}, got {', '.join(unknown)}")
        left_out = np.array([name in config.leave_out for name in self.generators])
        return left_out[self.generator_of.numpy()]

    def gather(self, images: Tensor, text_mode: TextMode) -> Batch:
        """Features and labels of some images, in memory of their own.

        Args:
            images: ``(N,)`` int64.
            text_mode: which prompt goes with an image.
        """
        (batch,) = self.batches([images], text_mode)
        return batch

    def batches(
        self,
        parts: Iterable[Tensor],
        text_mode: TextMode,
        *,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
        view: int = 0,
    ) -> Iterator[Batch]:
        """Features and labels of one set of images after the other.

        Args:
            parts: of each batch, ``(N,)`` int64 images.
            text_mode: as for :meth:`gather`.
            device: where the batches go.
            dtype: of features and labels.
            view: which view of each image comes after it, counted from 1; 0 for the images alone.

        Yields:
            A batch, until the next one is asked for: it overwrites this one.
        """
        text_mode = self.text_mode(text_mode)
        parts = list(parts)
        names = layout_of_batch(self.layout, text=text_mode != "none", view=view)
        matrices = [self.matrices[name] for name in names]
        chosen = (self._chosen(images, text_mode, 2 if view else 1) for images in parts)
        for images, features in zip(parts, gather_batches(matrices, chosen, device=device, dtype=dtype), strict=True):
            yield self._batch(features, to_device(self.labels.index_select(0, images).to(dtype), device), view)

    def _batch(self, features: Tensor, labels: Tensor, view: int) -> Batch:
        """The batch of some images, out of their features in the order of :func:`layout_of_batch`."""
        if not view:
            return Batch(features, labels)
        width = sum(self.inputs.values())
        image, degraded, text = features.split([width, width, features.shape[1] - 2 * width], dim=1)
        both = torch.cat([image, text, degraded, text], dim=1).reshape(2 * len(image), -1)
        return Batch(both, labels.repeat_interleave(2), copies=2)

    def _chosen(self, images: Tensor, text_mode: TextMode, copies: int) -> list[Tensor]:
        """Of each matrix that a batch needs, the rows of some images, where the matrices are."""
        records, labels = (values.index_select(0, images) for values in (self.record_of, self.labels))
        rows = to_device(self.order.index_select(0, images).to(torch.int64), self.device)
        prompts = prompt_rows(text_mode, records, labels, num_records=len(self.record_ids))
        of_text = [] if prompts is None else [to_device(prompts.to(torch.int64), self.device)]
        return [rows] * (copies * len(self.inputs)) + of_text

    def epoch_batches(self, images: Tensor, *, seed: int, epoch: int, batch_size: int, stratified: bool) -> list[Tensor]:
        """The sequence of global batches of an epoch, see :func:`global_batches`."""
        labels = self.labels.index_select(0, images) if stratified else None
        return global_batches(images, seed=seed, epoch=epoch, batch_size=batch_size, labels=labels)

    def to(self, device: torch.device) -> "FeatureTable":
        """The same table with its features in a device's memory."""
        return replace(self, matrices={name: matrix.to(device) for name, matrix in self.matrices.items()})

    @property
    def device(self) -> torch.device:
        """Where the features are held."""
        return next(iter(self.matrices.values())).device


def table_fields(features: FeatureSet, index: ImageIndex) -> dict[str, Any]:
    """The fields of a table besides its features."""
    pa.default_memory_pool().release_unused()  # Arrow would keep what it took to read thousands of files
    return {
        "order": _tensor(index.order),
        "record_of": _tensor(index.record_of),
        "labels": torch.from_numpy(labels_of(index.generator_of, index.generators)),
        "generator_of": _tensor(index.generator_of),
        "generators": index.generators,
        "record_ids": index.record_ids,
        "manifest": features.manifest,
        "manifest_sha256": features.manifest_sha256,
        "identity": features.identity,
    }


def _tensor(array: np.ndarray) -> Tensor:
    """The array without a copy; a read-only map is never written to, which torch can not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
