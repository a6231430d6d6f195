"""Answers for some images in this process: threads read and decode beside the encoder."""

import itertools
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from rdd.data.records import RawRecord, Reader, from_table
from rdd.serving.answer import Answer
from rdd.serving.prepare import Prepared, Preparer
from rdd.serving.records import prepare_record

if TYPE_CHECKING:
    from rdd.serving.predictor import Predictor  # and with it torch

_MAX_THREADS = 8
"""That read and decode; more would only hold more pictures."""


@dataclass(frozen=True)
class Batch:
    """Images that the encoder takes together."""

    images: list[Prepared]
    captions: list[str | None]


class BatchesAhead:
    """Reads and prepares images in threads, from its making on, a few batches ahead of whoever goes through them; to be closed.

    Args:
        index: the images (``schema.INDEX``).
        read: reads rows of it.
        preparer: of the detector's encoder.
        batch_size: images in a batch; fewer where the source changes.
    """

    def __init__(self, index: pa.Table, read: Reader, preparer: Preparer, *, batch_size: int) -> None:
        threads = min(os.cpu_count() or 1, _MAX_THREADS)
        self._pool = ThreadPoolExecutor(threads, "read and decode")
        self._work = (self._submit(index.slice(start, rows), read, preparer) for start, rows in _runs(index, batch_size))
        self._ahead: deque[Future[Batch]] = deque(itertools.islice(self._work, threads + 1))

    def _submit(self, rows: pa.Table, read: Reader, preparer: Preparer) -> "Future[Batch]":
        return self._pool.submit(_prepared, rows, read, preparer)

    def __iter__(self) -> Iterator[Batch]:
        while self._ahead:
            batch = self._ahead.popleft().result()
            self._ahead.extend(itertools.islice(self._work, 1))
            yield batch

    def close(self) -> None:
        """Begin nothing more; what has begun ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def answers_of(batches: BatchesAhead, predictor: "Predictor") -> Iterator[tuple[list[Answer], Batch]]:
    """Answers of each batch, and the images that they are of, in the order of the index."""
    for batch in batches:
        yield predictor.answers(batch.images, batch.captions), batch


def _prepared(rows: pa.Table, read: Reader, preparer: Preparer) -> Batch:
    records = {record.place.key: record for table in read(rows) for record in from_table(table, RawRecord)}
    in_order = [records[key] for key in rows["key"].to_pylist()]
    captions = [record.text_original if isinstance(record, RawRecord) else None for record in in_order]
    return Batch([prepare_record(record, preparer) for record in in_order], captions)


def _runs(index: pa.Table, size: int) -> Iterator[tuple[int, int]]:
    """Start and length of runs of rows of one source, ``size`` at most."""
    start = 0
    for _, group in itertools.groupby(index["source"].to_pylist()):
        rows = sum(1 for _ in group)
        for first in range(start, start + rows, size):
            yield first, min(size, start + rows - first)
        start += rows
