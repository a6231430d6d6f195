"""Logits of images and what is known of each image: made by a detector, kept as Parquet."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

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
    generators: np.ndarray
    """``(N,)`` names; ``real`` for real images."""
    records: np.ndarray
    """``(N,)`` integers: images of one record share theirs."""


def score_part(detector: Detector, table: FeatureTable, images: torch.Tensor, text_mode: TextMode | None = None) -> Scored:
    """Logits of some images of a feature set; ``text_mode`` is by default the one in which the detector scores this set."""
    names = np.array(table.generators)
    return Scored(
        logits=predict(detector.head, table, images, text_mode or detector.text_mode_for(table)).numpy(),
        labels=table.labels[images].numpy(),
        generators=names[table.generator_of[images].numpy()],
        records=table.record_of[images].numpy(),
    )


def write_logits(path: str, scored: Scored, table: FeatureTable) -> None:
    """The logit of each image, with its record, generator and label, as Parquet."""
    columns = {
        "record_id": [table.record_ids[record] for record in scored.records],
        "generator": scored.generators.tolist(),
        "label": scored.labels.astype(np.int8),
        "logit": scored.logits,
    }
    storage.write_table(path, pa.table(columns))


def read_logits(path: str) -> Scored:
    """What :func:`write_logits` wrote."""
    columns = ["record_id", "generator", "label", "logit"]
    table = storage.read_table(path, columns, way_out="delete the run's directory to train it again")
    _, records = np.unique(table["record_id"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    generators = table["generator"].to_numpy(zero_copy_only=False).astype(str)
    return Scored(table["logit"].to_numpy(), table["label"].to_numpy(), generators, records)
