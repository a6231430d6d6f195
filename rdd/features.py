"""Features as tensors: Parquet to memory, splits by record, text modes, and the sequence of global batches.

All of D3's features are 25 GB in float16, so every process can index every row: the columns are laid end to end in memory, or
in one memory map per node that its processes share, and a batch is a gather by index. Nothing is permuted or copied per split.
"""

import json
import os
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.feature_store import Columns, read_columns, read_shared_columns
from rdd.hashing import hash_strings, sha256_bytes
from rdd.schema import REAL, label_of

Part = Literal["train", "validation", "test"]
TextMode = Literal["shared", "official", "none"]


@dataclass(frozen=True)
class Batch:
    """Rows of a feature table, gathered."""

    features: Tensor
    """``(N, D)`` or ``(N, 2 D)`` float32: image features, then those of the text."""
    labels: Tensor
    """``(N,)`` float32: 0 real, 1 generated."""


@dataclass(frozen=True)
class FeatureTable:
    """Features of images, indexable by image.

    The order of images is that of their record ids, whatever the order of the files, so that batches do not depend on how
    often the embedding was interrupted.
    """

    image_features: Tensor
    """``(M, D)`` float16, in the order of the files."""
    text_original: Tensor | None
    """``(R, D)`` float16, one row a record, in the order of the files; None where the features hold no text."""
    text_positive: Tensor | None
    """The same of the longer prompt."""
    order: Tensor
    """``(M,)`` int64: row of ``image_features`` of each image, sorted by record id."""
    record_of: Tensor
    """``(M,)`` int64: record of each image, a row of the text tensors."""
    labels: Tensor
    """``(M,)`` float32 of each image."""
    generator_of: Tensor
    """``(M,)`` int64 of each image: position in ``generators``."""
    generators: tuple[str, ...]
    """Names, ``real`` first."""
    record_ids: tuple[str, ...]
    """Of each record, a row of the text tensors."""
    manifest: dict[str, Any]
    """What jobs/embed.py wrote beside the features."""
    manifest_sha256: str
    """Of the manifest's file: the identity of the features."""

    @classmethod
    def load(cls, path: str, *, shared: str | None = None) -> "FeatureTable":
        """Read what jobs/embed.py wrote.

        Args:
            path: its directory, local or on S3.
            shared: local directory for one memory map per node: the first process writes it, all map it. By default the
                features are read into this process's own memory.

        Raises:
            ValueError: there is no finished embedding at ``path``.
            RuntimeError: the files are not what the manifest says.
        """
        manifest_path = storage.join(path, "manifest.json")
        if not storage.exists(manifest_path):
            raise ValueError(f"{path} holds no manifest.json, so no finished embedding; run jobs/embed.py to its end")
        data = storage.read_bytes(manifest_path)
        try:
            manifest, digest = json.loads(data), sha256_bytes(data)
            columns = (
                read_shared_columns(path, manifest, os.path.join(shared, digest)) if shared else read_columns(path, manifest)
            )
        except (json.JSONDecodeError, KeyError, pa.ArrowException) as error:
            raise RuntimeError(
                f"{path} is not what jobs/embed.py wrote ({type(error).__name__}: {error}); embed again"
            ) from error
        found, written = len(columns.record_ids), manifest["records_written"]
        if found != written:
            raise RuntimeError(f"{path} holds {found} records and its manifest says {written}; embed again")
        if len(set(columns.record_ids)) != found:
            raise RuntimeError(f"{path} holds record ids more than once; embed again")
        return cls(**_indexed(columns), manifest=manifest, manifest_sha256=digest)

    def __len__(self) -> int:
        """Images in the table."""
        return len(self.order)

    @property
    def embed_dim(self) -> int:
        """Width D of a feature vector."""
        return self.image_features.shape[1]

    def width(self, text_mode: TextMode) -> int:
        """Columns of a batch's features."""
        return self.embed_dim * (1 if text_mode == "none" else 2)

    def check_text_mode(self, text_mode: TextMode) -> None:
        """Refuse a text mode that needs prompts which are not there.

        Raises:
            ValueError: the features hold no text.
        """
        if text_mode != "none" and (self.text_original is None or self.text_positive is None):
            raise ValueError(
                f"features.text_mode {text_mode} needs prompts and the features hold none; embed with embed.text true, "
                "or set features.text_mode to none"
            )

    def split(self, config: FeaturesConfig, part: Part) -> Tensor:
        """Images of a part, all images of a record in one part.

        Args:
            config: split, shares or folds, seed.
            part: which.

        Returns:
            ``(n,)`` int64, ascending.

        Raises:
            ValueError: the part has no image, or images of one class only.
        """
        parts = split_records(self.record_ids, config)
        images = torch.from_numpy(np.flatnonzero(parts[self.record_of.numpy()] == part))
        classes = torch.unique(self.labels[images]).tolist()
        if len(classes) < 2:
            found = {0.0: "real images only", 1.0: "generated images only"}[classes[0]] if classes else "no image"
            raise ValueError(
                f"the {part} part of {len(self.record_ids)} records holds {found}; give more records or another split"
            )
        return images

    def gather(self, images: Tensor, text_mode: TextMode) -> Batch:
        """Features and labels of some images.

        Args:
            images: ``(N,)`` int64.
            text_mode: shared: the original prompt for every image; official: the positive prompt for generated ones;
                none: image features alone.
        """
        features = torch.empty((len(images), self.width(text_mode)), dtype=torch.float32)
        # index_select: indexing with brackets is four times slower on float16
        features[:, : self.embed_dim] = self.image_features.index_select(0, self.order[images])
        labels = self.labels[images]
        if text_mode != "none":
            self.check_text_mode(text_mode)
            assert self.text_original is not None
            assert self.text_positive is not None
            records = self.record_of[images]
            text = self.text_original.index_select(0, records)
            if text_mode == "official":
                text = torch.where(labels[:, None] > 0, self.text_positive.index_select(0, records), text)
            features[:, self.embed_dim :] = text
        return Batch(features, labels)


def split_records(record_ids: tuple[str, ...], config: FeaturesConfig) -> np.ndarray:
    """Part of each record, by a seeded hash of its id: the same whatever other records there are.

    Returns:
        ``(R,)`` str: train, validation or test. By folds, validation takes its share of what is not the fold.
    """
    uniform = hash_strings(record_ids, seed=config.split_seed) / 2.0**64
    if config.split == "shares":
        test = uniform < config.test_share
        validation = ~test & (uniform < config.test_share + config.validation_share)
    else:
        place = uniform * config.num_folds
        test = np.floor(place).astype(int) == config.fold
        validation = ~test & (place % 1 < config.validation_share)
    return np.where(test, "test", np.where(validation, "validation", "train"))


def global_batches(images: Tensor, *, seed: int, epoch: int, batch_size: int) -> list[Tensor]:
    """The batches of an epoch: a function of seed, epoch and batch size alone, not of the number of workers.

    Args:
        images: ``(n,)`` images of the training part.
        seed: of the run.
        epoch: counted from 0.
        batch_size: images in a global batch, at most.

    Returns:
        ceil(n / batch_size) tensors that hold every image once and differ by at most one in length.
    """
    generator = torch.Generator().manual_seed(hash_pair(seed, epoch))
    shuffled = images[torch.randperm(len(images), generator=generator)]
    return list(shuffled.tensor_split(-(-len(images) // batch_size)))


def rank_slice(batch: Tensor, *, rank: int, world_size: int) -> Tensor:
    """A rank's share of a global batch: consecutive, and as equal as can be."""
    return batch.tensor_split(world_size)[rank]


def hash_pair(seed: int, number: int) -> int:
    """One 63-bit seed out of two numbers, so that neighbouring seeds and epochs have nothing in common."""
    return int(hash_strings([str(number)], seed=seed)[0] >> np.uint64(1))


def _indexed(columns: Columns) -> dict[str, Any]:
    """The small per-image tensors, in the order of record ids."""
    counts = np.asarray(pc.list_value_length(columns.generators))
    starts = np.cumsum(counts) - counts
    by_id = np.array(sorted(range(len(columns.record_ids)), key=columns.record_ids.__getitem__), dtype=np.int64)
    record_of = np.repeat(by_id, counts[by_id])
    within = np.arange(len(record_of)) - np.repeat(np.cumsum(counts[by_id]) - counts[by_id], counts[by_id])
    order = starts[record_of] + within
    names = pc.list_flatten(columns.generators).dictionary_encode()
    generators = sorted(names.dictionary.to_pylist(), key=lambda name: (name != REAL, name))
    rank = np.array([generators.index(name) for name in names.dictionary.to_pylist()], dtype=np.int64)
    generator_of = rank[np.asarray(names.indices)][order]
    label_by_generator = np.array([label_of(name) for name in generators], dtype=np.float32)
    return {
        "image_features": _tensor(columns.image_features),
        "text_original": None if columns.text_original is None else _tensor(columns.text_original),
        "text_positive": None if columns.text_positive is None else _tensor(columns.text_positive),
        "order": torch.from_numpy(order),
        "record_of": torch.from_numpy(record_of),
        "labels": torch.from_numpy(label_by_generator[generator_of]),
        "generator_of": torch.from_numpy(generator_of),
        "generators": tuple(generators),
        "record_ids": columns.record_ids,
    }


def _tensor(array: np.ndarray) -> Tensor:
    """The array without a copy; a read-only map is never written to, which torch can not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)
