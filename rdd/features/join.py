"""Several directories of features as one set, joined by record and image: which row of each is which row of the whole.

An image is known by its record, its generator, and which of the record's images of that generator it is. A directory may add
records, images of further generators to records that another holds, or further features of the same images.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rdd.features.columns import TEXT
from rdd.features.index import FileIndex, ImageIndex
from rdd.schema import REAL


@dataclass(frozen=True)
class Part:
    """One of the directories."""

    path: str
    """For errors."""
    index: FileIndex
    holds: Collection[str]
    """Names of the matrices that it has a share in: inputs, and ``text`` for the features of prompts."""


@dataclass(frozen=True)
class Joined:
    """The whole."""

    index: ImageIndex
    rows: tuple[dict[str, np.ndarray], ...]
    """Of each directory, by name of a matrix that it has a share in: ``(n,)`` row of the matrix for each of its images, under
    ``text`` for each of its records; -1 where the whole has no place for it."""
    images_left_out: int
    """That lack an input."""


def join(parts: Sequence[Part], inputs: Sequence[str], *, text: bool) -> Joined:
    """Join directories; an image that lacks one of the inputs is left out.

    Args:
        parts: the directories, in the order that the rows of the whole follow.
        inputs: names of the features of an image; each is held by a directory at least.
        text: whether the features of prompts are wanted.

    Raises:
        ValueError: two directories hold the same feature of the same image, no image has all inputs, or prompts are wanted and
            a record has none.
        RuntimeError: a directory holds a record twice.
    """
    for part in parts:
        if len(part.index.record_ids.unique()) < len(part.index.record_ids):
            raise RuntimeError(f"{part.path} holds record ids more than once; embed again")
    ids = pa.concat_arrays([part.index.record_ids for part in parts]).unique()
    generators = tuple(
        sorted({name for part in parts for name in part.index.generators}, key=lambda name: (name != REAL, name))
    )
    records_of = [np.asarray(pc.index_in(part.index.record_ids, value_set=ids)).astype(np.int64) for part in parts]
    image_keys = _ImageKeys(parts, records_of, generators)
    keys = _joined_keys(parts, image_keys, inputs)
    record_of_row, codes = image_keys.record_and_generator(keys)
    used, record_of_row = np.unique(record_of_row, return_inverse=True)
    record_ids = ids.take(pa.array(used))
    rows = [
        dict.fromkeys(set(inputs).intersection(part.holds), places)
        for part, places in zip(parts, _positions(keys, image_keys.of), strict=True)
    ]
    if text:
        for found, places in zip(rows, _text_rows(parts, records_of, used, len(ids)), strict=True):
            found |= {TEXT: places}
    distinct = len(np.unique(np.concatenate(image_keys.of)))
    return Joined(_image_index(record_of_row, codes, record_ids, generators), tuple(rows), distinct - len(keys))


class _ImageKeys:
    """A number for each image that is the same in all directories."""

    def __init__(self, parts: Sequence[Part], records_of: Sequence[np.ndarray], generators: Sequence[str]) -> None:
        self._code = np.int16 if len(generators) < 2**15 else np.int32
        place = {name: number for number, name in enumerate(generators)}
        self._generators = len(generators)
        pairs = []
        for part, records in zip(parts, records_of, strict=True):
            codes = np.array([place[name] for name in part.index.generators], dtype=np.int64)[part.index.generator_of]
            pairs.append(np.repeat(records, part.index.images_of) * self._generators + codes)
        times = [_times_before(pair) for pair in pairs]
        self._times = 1 + max((int(of_part.max(initial=0)) for of_part in times), default=0)
        self.of = [pair * self._times + count for pair, count in zip(pairs, times, strict=True)]
        """Of each directory, ``(n,)`` int64 of its images."""

    def record_and_generator(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Record and generator of some images."""
        pairs = keys // self._times
        return pairs // self._generators, (pairs % self._generators).astype(self._code)


def _times_before(values: np.ndarray) -> np.ndarray:
    """How often each value has come before."""
    order = np.argsort(values, kind="stable")
    new = np.diff(values[order], prepend=-1) != 0
    place = np.arange(len(values))
    counted = np.empty(len(values), dtype=np.int64)
    counted[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return counted


def _joined_keys(parts: Sequence[Part], image_keys: _ImageKeys, inputs: Sequence[str]) -> np.ndarray:
    """Keys of the images with all inputs, in the order in which the directories hold the first input."""
    by_holders: dict[tuple[int, ...], np.ndarray] = {}
    for name in inputs:
        holders = tuple(number for number, part in enumerate(parts) if name in part.holds)
        if holders not in by_holders:
            by_holders[holders] = _keys_of_input(parts, image_keys, name, holders)
    first, *others = by_holders.values()
    for other in others:
        first = first[np.isin(first, other)]
    if not len(first):
        paths = ", ".join(part.path for part in parts)
        raise ValueError(f"features.path must name directories with an image that has all of {', '.join(inputs)}, got {paths}")
    return first


def _keys_of_input(parts: Sequence[Part], image_keys: _ImageKeys, name: str, holders: Sequence[int]) -> np.ndarray:
    keys = np.concatenate([image_keys.of[number] for number in holders])
    twice = len(keys) - len(np.unique(keys))
    if twice:
        paths = " and ".join(parts[number].path for number in holders)
        raise ValueError(
            f"features.path must name directories that hold {name} of an image once, got {twice} images that stand in more "
            f"than one of {paths}; embed with embed.beside, which leaves out what is there"
        )
    return keys


def _positions(keys: np.ndarray, wanted: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Of each array, the position of each of its values among the keys, -1 where it is none of them."""
    order = np.argsort(keys)
    for values in wanted:
        place = np.minimum(np.searchsorted(keys, values, sorter=order), len(keys) - 1)
        yield np.where(keys[order[place]] == values, order[place], -1)


def _text_rows(parts: Sequence[Part], records_of: Sequence[np.ndarray], used: np.ndarray, records: int) -> list[np.ndarray]:
    """Of each directory, the row of each record's prompts, from the first directory that has them."""
    place = np.full(records, -1)
    place[used] = np.arange(len(used))
    rows = []
    for part, numbers in zip(parts, records_of, strict=True):
        mine = place[numbers] if TEXT in part.holds else np.full(len(numbers), -1)
        place[numbers[mine >= 0]] = -1
        rows.append(mine)
    if lacking := int((place >= 0).sum()):
        paths = ", ".join(part.path for part in parts)
        raise ValueError(
            f"features.text_mode must be none, since {lacking} of {len(used)} records of {paths} have no features of prompts"
        )
    return rows


def _image_index(
    record_of_row: np.ndarray, codes: np.ndarray, record_ids: pa.StringArray, generators: tuple[str, ...]
) -> ImageIndex:
    rank = np.empty(len(record_ids), dtype=np.int32)
    rank[pc.sort_indices(record_ids).to_numpy()] = np.arange(len(record_ids), dtype=np.int32)
    order = np.argsort(rank[record_of_row], kind="stable").astype(np.int32)
    return ImageIndex(order, record_of_row[order].astype(np.int32), codes[order], generators, record_ids)
