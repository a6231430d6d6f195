"""Features that fit neither memory nor disk of a node: read again each epoch, through Ray Data.

The sequence of global batches stays a function of (seed, epoch, batch size) and of the features, not of the number of workers:
files come in a random order, and images are shuffled within windows of whole batches. Every rank reads the files of a window
and keeps its own share.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from rdd.features import Batch, FeatureTable, TextMode, deal_batches, hash_pair
from rdd.features.files import FileIndex, feature_files, read_columns, read_index, read_manifest
from rdd.features.gather import CPU
from rdd.features.table import index_images
from rdd.schema import FEATURE_DTYPE

_TASKS = 2  # windows on their way: one is read while another is trained on


@dataclass(frozen=True)
class StreamedTable(FeatureTable):
    """A table whose features stay in their files; only record ids, labels and row numbers are in memory."""

    index: FileIndex
    window_bytes: int
    """Features that are shuffled together."""

    @property
    def streamed(self) -> bool:
        """True: each epoch reads the features anew, in the order of :meth:`epoch_batches`."""
        return True

    @classmethod
    def open(cls, path: str, *, shuffle_mib: int) -> "StreamedTable":
        """Read the index of what jobs/embed.py wrote.

        Args:
            path: its directory, local or on S3.
            shuffle_mib: features, in MiB, that are shuffled together; a rank keeps its share of two such windows in memory,
                and a file each.

        Raises:
            ValueError: there is no finished embedding at ``path``.
            RuntimeError: the files are not what the manifest says.
        """
        manifest, digest = read_manifest(path)
        index = read_index(feature_files(path))
        rows = torch.empty(0, manifest["embed_dim"], dtype=torch.float16)
        fields = index_images(path, index, manifest, digest)
        return cls(rows=rows, **fields, index=index, window_bytes=shuffle_mib * 2**20)

    def epoch_batches(self, images: Tensor, *, seed: int, epoch: int, batch_size: int, stratified: bool) -> list[Tensor]:
        """The batches of an epoch, shuffled within windows of files; ``stratified`` deals the classes within a window."""
        generator = torch.Generator().manual_seed(hash_pair(seed, epoch))
        place = torch.empty(len(self.index.files), dtype=torch.int64)
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
    ) -> Iterator[Batch]:
        """The same batches as :meth:`FeatureTable.batches` yields, read window by window by Ray Data."""
        text_mode = self.text_mode(text_mode)
        parts = list(parts)
        per_window = self._batches_per_window(max(map(len, parts), default=1))  # of a rank: its share of some windows
        windows = [self._window(parts[first : first + per_window], text_mode) for first in range(0, len(parts), per_window)]
        features = _read_in_order(windows, self.index, self.manifest)
        for images, batch in zip(parts, features, strict=True):
            labels = self.labels.index_select(0, images)
            yield Batch(batch.to(device).to(dtype), labels.to(device, dtype))

    def _window(self, parts: list[Tensor], text_mode: TextMode) -> dict[str, Any]:
        """A request: the files to read, and of each batch the rows of the whole table."""
        numbers = [self.row_numbers(images, text_mode).numpy() for images in parts]
        files = np.unique(np.concatenate([self._file_of(images).numpy() for images in parts]))
        return {"files": files, "numbers": numbers}

    def _file_of(self, images: Tensor) -> Tensor:
        return torch.searchsorted(torch.from_numpy(self.index.first_image), self.order[images], right=True) - 1

    def _batches_per_window(self, batch_size: int) -> int:
        image_bytes = self.embed_dim * 2 * (2 if self.has_text else 1)
        return max(1, self.window_bytes // (batch_size * image_bytes))


class _WindowReader:
    """Reads the files of a window and gathers its batches; a task of Ray Data.

    Args:
        requests: reference of the list of windows, and of the index of the features.
        manifest: of the features.
    """

    def __init__(self, requests: "ray.ObjectRef", manifest: dict[str, Any]) -> None:
        self._requests, self._manifest = requests, manifest

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """One row a batch: its float16 features as bytes, and how many images it has; one file is in memory at a time."""
        windows, index = ray.get(self._requests)
        numbers = windows[row["id"]]["numbers"]
        wanted = np.concatenate([row_numbers.ravel() for row_numbers in numbers])
        text = any(row_numbers.shape[1] > 1 for row_numbers in numbers)
        gathered = np.empty((len(wanted), self._manifest["embed_dim"]), dtype=FEATURE_DTYPE)
        for file in windows[row["id"]]["files"]:
            read = read_columns([index.files[file]], self._manifest, text=text)
            places = _rows_of_file(index, file)[: len(read.rows)]  # without text they end with the images
            nearest = np.searchsorted(places, wanted).clip(max=len(places) - 1)
            here = places[nearest] == wanted
            gathered[here] = read.rows[nearest[here]]
        ends = np.cumsum([row_numbers.size for row_numbers in numbers])[:-1]
        parts = np.split(gathered, ends)
        return [
            {"features": part.tobytes(), "images": len(row_numbers)} for part, row_numbers in zip(parts, numbers, strict=True)
        ]


def _rows_of_file(index: FileIndex, file: int) -> np.ndarray:
    """Rows of the whole matrix that a file holds: images, original prompts, positive prompts; ascending."""
    images, records = int(index.first_image[-1]), int(index.first_record[-1])
    blocks = [(index.first_image, 0), (index.first_record, images), (index.first_record, images + records)]
    return np.concatenate([np.arange(firsts[file], firsts[file + 1]) + begin for firsts, begin in blocks])


def _read_in_order(windows: list[dict[str, Any]], index: FileIndex, manifest: dict[str, Any]) -> Iterator[Tensor]:
    """``(N, k D)`` float16 of each batch, in order, read ahead by tasks that take no CPU from the workers."""
    if not windows:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures come as exceptions
    reader = _WindowReader(ray.put((windows, index)), manifest)
    dataset = ray.data.range(len(windows), override_num_blocks=len(windows))
    dataset = dataset.flat_map(reader.__call__, compute=ray.data.TaskPoolStrategy(size=_TASKS), num_cpus=0)
    for row in dataset.iter_rows():
        values = np.frombuffer(row["features"], dtype=np.float16).copy()
        yield torch.from_numpy(values).view(row["images"], -1)
