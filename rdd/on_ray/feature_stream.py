"""Features that fit neither memory nor disk of a node: read again each epoch, through Ray Data.

The sequence of global batches stays a function of (seed, epoch, batch size) and of the features, not of the number of workers:
files come in a random order, and images are shuffled within windows of whole batches. Every rank reads the files of a window
and keeps its own share.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from rdd.feature_names import PROJECTED
from rdd.features import Batch, FeatureTable, TextMode, deal_batches, hash_pair
from rdd.features.columns import TEXT, Layout, layout_of_batch, width_of
from rdd.features.feature_set import FeatureSet
from rdd.features.files import read_columns
from rdd.features.gather import CPU
from rdd.features.index import FileIndex, labels_of
from rdd.features.table import table_fields
from rdd.features.text_modes import prompt_rows

_TASKS = 2  # windows on their way: one is read while another is trained on


@dataclass(frozen=True)
class StreamedTable(FeatureTable):
    """A table whose features stay in their files; only record ids, labels and row numbers are in memory."""

    files: tuple[str, ...]
    first_image: np.ndarray
    """``(files + 1,)`` images before each file."""
    window_bytes: int
    """Features that are shuffled together."""

    @property
    def streamed(self) -> bool:
        """True: each epoch reads the features anew, in the order of :meth:`epoch_batches`."""
        return True

    @classmethod
    def open(
        cls,
        path: str | Sequence[str],
        *,
        inputs: Sequence[str] = (PROJECTED,),
        text: bool = True,
        views: int = 0,
        shuffle_mib: int,
    ) -> "StreamedTable":
        """Read the index of what jobs/embed.py wrote.

        Args:
            path: its directory, local or on S3; or several, each with all inputs, which are joined by record.
            inputs: names of the features of an image that a batch holds, in this order.
            text: whether the features of prompts may be asked for, where there are any.
            views: of each image, how many may be asked for; an epoch reads one of them.
            shuffle_mib: features, in MiB, that are shuffled together; a rank keeps its share of two such windows in memory,
                and a file each.

        Raises:
            ValueError: there is no finished embedding at ``path``, it lacks an input or views, or several can not be joined.
            RuntimeError: the files are not what the manifest says.
        """
        features = FeatureSet.open(path)
        layout = features.layout(inputs, text=text, views=views)
        of_directories, images = features.read_index(layout)
        images_of_file = [np.diff(index.first_image) for index in of_directories]
        return cls(
            layout=layout,
            matrices={},
            files=tuple(file for index in of_directories for file in index.files),
            first_image=np.cumsum([0, *np.concatenate(images_of_file)]),
            window_bytes=shuffle_mib * 2**20,
            **table_fields(features, images),
        )

    def epoch_batches(self, images: Tensor, *, seed: int, epoch: int, batch_size: int, stratified: bool) -> list[Tensor]:
        """The batches of an epoch, shuffled within windows of files; ``stratified`` deals the classes within a window."""
        generator = torch.Generator().manual_seed(hash_pair(seed, epoch))
        place = torch.empty(len(self.files), dtype=torch.int64)
        place[torch.randperm(len(place), generator=generator)] = torch.arange(len(place))
        by_file = images[torch.argsort(place[self._file_of(images)], stable=True)]
        pieces = by_file.tensor_split(-(-len(images) // batch_size))
        per_window = self._batches_per_window(batch_size)
        batches: list[Tensor] = []
        for first in range(0, len(pieces), per_window):
            window = torch.cat(pieces[first : first + per_window])
            labels = self.labels.index_select(0, window) if stratified else None
            batches += deal_batches(window, len(pieces[first : first + per_window]), generator, labels)
        return batches

    def batches(
        self,
        parts: Iterable[Tensor],
        text_mode: TextMode,
        *,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
        view: int = 0,
    ) -> Iterator[Batch]:
        """The same batches as :meth:`FeatureTable.batches` yields, read window by window by Ray Data."""
        text_mode = self.text_mode(text_mode)
        parts = list(parts)
        per_window = self._batches_per_window(max(map(len, parts), default=1))  # of a rank: its share of some windows
        windows = [self._window(parts[first : first + per_window], text_mode) for first in range(0, len(parts), per_window)]
        features = _read_in_order(windows, layout_of_batch(self.layout, text=text_mode != "none", view=view))
        for images, batch in zip(parts, features, strict=True):
            labels = self.labels.index_select(0, images)
            yield self._batch(batch.to(device).to(dtype), labels.to(device, dtype), view)

    def _window(self, parts: list[Tensor], text_mode: TextMode) -> "_Window":
        rows = [self.order.index_select(0, images).numpy() for images in parts]
        numbers = np.unique(np.concatenate([self._file_of(images).numpy() for images in parts]))
        return _Window([self.files[number] for number in numbers], self.first_image[numbers].tolist(), rows, text_mode)

    def _file_of(self, images: Tensor) -> Tensor:
        return torch.searchsorted(torch.from_numpy(self.first_image), self.order[images], right=True) - 1

    def _batches_per_window(self, batch_size: int) -> int:
        of_batch = layout_of_batch(self.layout, text=True, view=min(1, self.views))
        image_bytes = sum(columns[0].vector_bytes for columns in of_batch.values())
        return max(1, self.window_bytes // (batch_size * image_bytes))


@dataclass(frozen=True)
class _Window:
    """A request for some batches, 4 bytes an image: a task that reads them needs to know nothing else of the table."""

    files: list[str]
    """That hold the images of the batches."""
    first_image: list[int]
    """Images of the whole table before each file."""
    rows: list[np.ndarray]
    """Of each batch, ``(N,)`` int32: rows of its images in the whole table."""
    text_mode: TextMode


class _WindowReader:
    """Reads the files of a window and gathers its batches; a task of Ray Data.

    Args:
        windows: a reference to each, so that a task fetches no window but its own.
        layout: what a batch holds.
    """

    def __init__(self, windows: "list[ray.ObjectRef]", layout: Layout) -> None:
        self._windows, self._layout = windows, layout

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """One row a batch: its features as bytes, and how many images it has; one file is in memory at a time."""
        window: _Window = ray.get(self._windows[row["id"]])
        wanted = np.concatenate(window.rows)
        gathered = np.empty((len(wanted), width_of(self._layout)), dtype=_dtype_of(self._layout))
        for file, first in zip(window.files, window.first_image, strict=True):
            read = read_columns([file], self._layout)
            here = np.flatnonzero((wanted >= first) & (wanted < first + len(read.index.generator_of)))
            rows = _rows_of(read.index, wanted[here] - first, window.text_mode)
            begin = 0
            for name, matrix in read.matrices.items():
                end = begin + matrix.shape[1]
                gathered[here, begin:end] = matrix[rows[name == TEXT]]
                begin = end
        ends = np.cumsum([len(rows) for rows in window.rows])[:-1]
        return [{"features": part.tobytes(), "images": len(part)} for part in np.split(gathered, ends)]


def _rows_of(index: FileIndex, images: np.ndarray, text_mode: TextMode) -> tuple[np.ndarray, np.ndarray]:
    """Rows of some images of a file, and those of their prompts; of text mode none there is nothing to take from the latter."""
    records = np.repeat(np.arange(len(index.images_of)), index.images_of)[images]
    labels = labels_of(index.generator_of[images], index.generators)
    prompts = prompt_rows(text_mode, torch.from_numpy(records), torch.from_numpy(labels), num_records=len(index.images_of))
    return images, images if prompts is None else prompts.numpy()


def _dtype_of(layout: Layout) -> np.dtype:
    """The narrowest that holds all columns of a layout."""
    return np.result_type(*(columns[0].dtype for columns in layout.values()))


def _read_in_order(windows: list[_Window], layout: Layout) -> Iterator[Tensor]:
    """``(N, width)`` of each batch in its order, in the narrowest dtype; read ahead by tasks that take no CPU from workers."""
    if not windows:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures come as exceptions
    reader = _WindowReader([ray.put(window) for window in windows], layout)
    # not range, whose reading would wait for a CPU, and on a small machine the workers have all of them
    dataset = ray.data.from_items([{"id": number} for number in range(len(windows))], override_num_blocks=len(windows))
    dataset = dataset.flat_map(reader.__call__, compute=ray.data.TaskPoolStrategy(size=_TASKS), num_cpus=0)
    for row in dataset.iter_rows():
        values = np.frombuffer(row["features"], dtype=_dtype_of(layout)).copy()
        yield torch.from_numpy(values).view(row["images"], -1)
