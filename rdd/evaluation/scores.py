"""Logits of images and what is known of each image: made by a detector, kept as Parquet."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import ArrayLike

from rdd import storage
from rdd.detector import Detector
from rdd.engine import predict
from rdd.features import FeatureTable, TextMode


@dataclass(frozen=True)
class Scored:
    """Logits of images and what is known of each."""

    logits: np.ndarray
    """``(N,)`` float64."""
    labels: np.ndarray
    """``(N,)``: 0 real, 1 generated."""
    generator_of: np.ndarray
    """``(N,)`` integers: position in ``generators``."""
    generators: tuple[str, ...]
    """Names, each once; not all of them need have an image here."""
    records: np.ndarray
    """``(N,)`` integers: images of one record share theirs."""

    @classmethod
    def named(cls, logits: np.ndarray, labels: np.ndarray, generators: ArrayLike, records: np.ndarray) -> "Scored":
        """The same from ``(N,)`` names of generators."""
        names, generator_of = np.unique(np.asarray(generators), return_inverse=True)
        return cls(logits, labels, generator_of, tuple(names.tolist()), records)

    def of(self, images: np.ndarray) -> "Scored":
        """The same of some images, ``(N,)`` bool."""
        logits, labels, generator_of, records = (
            values[images] for values in (self.logits, self.labels, self.generator_of, self.records)
        )
        return Scored(logits, labels, generator_of, self.generators, records)

    def generated_by(self) -> dict[str, np.ndarray]:
        """By name of a generator that has a generated image here, in alphabetical order: ``(N,)`` bool of its images."""
        present = np.unique(self.generator_of[self.labels == 1]).tolist()
        masks = {self.generators[code]: (self.generator_of == code) & (self.labels == 1) for code in present}
        return {name: masks[name] for name in sorted(masks)}


def score_part(detector: Detector, table: FeatureTable, images: torch.Tensor, text_mode: TextMode | None = None) -> Scored:
    """Logits of some images of a feature set.

    Args:
        detector: the detector.
        table: the features.
        images: ``(N,)``, ascending, so that the images of a record lie side by side, in the order of ids.
        text_mode: by default the one in which the detector scores this set.

    Returns:
        Them and their records, numbered by their ids in ascending order, whatever the order of the files.
    """
    logits = predict(detector.head, table, images, text_mode or detector.text_mode_for(table)).numpy()
    return scored_images(logits, table, images)


def scored_images(logits: np.ndarray, table: FeatureTable, images: torch.Tensor) -> Scored:
    """Logits with what a feature set knows of their images; arguments and result as for :func:`score_part`."""
    record_of = table.record_of[images].numpy()
    begins = np.concatenate([[False], record_of[1:] != record_of[:-1]])
    return Scored(
        logits=logits,
        labels=table.labels[images].numpy(),
        generator_of=table.generator_of[images].numpy(),
        generators=table.generators,
        records=np.cumsum(begins),
    )


def write_logits(path: str, scored: Scored, table: FeatureTable, images: torch.Tensor) -> None:
    """The logit of each of some images, with its record, generator and label, as Parquet."""
    columns = {
        "record_id": table.record_ids.take(pa.array(table.record_of[images].numpy())),
        "generator": pa.DictionaryArray.from_arrays(scored.generator_of, list(scored.generators)),
        "label": scored.labels.astype(np.int8),
        "logit": scored.logits,
    }
    storage.write_table(path, pa.table(columns))


def read_logits(path: str) -> Scored:
    """What :func:`write_logits` wrote; records are numbered by their ids in ascending order.

    Raises:
        RuntimeError: the file is damaged, or holds a logit that is no number.
    """
    columns, way_out = ["record_id", "generator", "label", "logit"], "delete the run's directory to train it again"
    table = storage.read_table(path, columns, way_out=way_out)
    if table.schema.field("logit").type != pa.float64() or not np.isfinite(table["logit"].to_numpy()).all():
        raise RuntimeError(f"{path} holds a logit that is no finite number; {way_out}")
    records, ids = _codes(table["record_id"])
    rank = np.empty(len(ids), dtype=np.int64)
    rank[pc.sort_indices(ids).to_numpy()] = np.arange(len(ids))
    generator_of, names = _codes(table["generator"])
    return Scored(table["logit"].to_numpy(), table["label"].to_numpy(), generator_of, tuple(names.to_pylist()), rank[records])


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Position of each value among the different ones, and these."""
    strings = column.cast(pa.string()).combine_chunks()  # generators come as a dictionary, or from earlier runs as strings
    encoded = strings.dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary
