"""Copies of records whose images were changed: what their features must hold, and a detector's logits of them."""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from rdd.config import Config
from rdd.detector import Detector
from rdd.evaluation.pairing import image_keys
from rdd.evaluation.scores import Scored, score_part
from rdd.features import FeatureTable
from rdd.features.node_map import map_folder
from rdd.runs.directory import RunDirectory
from rdd.runs.evaluate import images_of_part

logger = logging.getLogger(__name__)


def check_embedding(config: Config, why: str) -> None:
    """Refuse settings of an embedding that copies have their own values of.

    Args:
        config: the request.
        why: what says how the copies are made, as the end of a sentence.

    Raises:
        ValueError: naming the setting.
    """
    for name, value in (("embed.degrade", config.embed.degrade), ("embed.beside", config.embed.beside)):
        if value:
            raise ValueError(f"{name} must be empty, since {why}, got {value}")


def check_kept(config: Config, inputs: Sequence[str], what: str) -> None:
    """Refuse an embedding that does not keep some features, before any of it.

    Args:
        config: the request.
        inputs: names of features of images.
        what: looks at them, for the message.

    Raises:
        ValueError: naming those that are lacking.
    """
    if lacking := [name for name in inputs if name not in config.clip.features]:
        raise ValueError(
            f"clip.projected and clip.blocks must keep what {what} looks at, {', '.join(inputs)}, "
            f"got {', '.join(config.clip.features)} without {', '.join(lacking)}"
        )


def check_detector(config: Config, detector: Detector) -> None:
    """Refuse an embedding that lacks what a detector looks at, before any of it.

    Raises:
        ValueError: naming the setting.
    """
    check_kept(config, list(detector.inputs), "the detector")
    if detector.needs_text and not config.embed.text:
        raise ValueError("embed.text must be true, since the detector takes each image with its prompt, got false")


def check_classes(clean: Scored, left_out: int) -> None:
    """Refuse copies whose common images are of one class, and say how many some copy lacks.

    Raises:
        ValueError: with the counts.
    """
    generated = int(clean.labels.sum())
    if generated in (0, len(clean.labels)):
        raise ValueError(
            f"both classes must be present in every copy, got {len(clean.labels) - generated} real and {generated} generated "
            f"images in common, with {left_out} that some copy lacks"
        )
    if left_out:
        logger.warning("%d images are left out, since not every copy has them", left_out)


def scored_copy(
    config: Config, detector: Detector, path: str | list[str], *, only: pa.StringArray | None = None
) -> tuple[Scored, np.ndarray]:
    """A detector's logits of ``evaluate.part`` of a copy, and the keys of its images.

    Args:
        config: of the request; ``evaluate.run`` is the detector's run, which says how records are split.
        detector: the detector.
        path: of the copy's features.
        only: ids of the records that are looked at; by default all.

    Raises:
        ValueError: the features are not as the detector needs them, or it was trained on some of the records.
    """
    shared = None if only is None else map_folder()  # a set of which a part is looked at may be larger than memory
    table = FeatureTable.load(path, inputs=list(detector.inputs), text=detector.text_mode != "none", shared=shared)
    detector.check_features(table)
    images = among(images_of_part(config, RunDirectory(config.evaluate.run), table), table, only)
    return score_part(detector, table, images), keys_of(table, images)


def among(images: Tensor, table: FeatureTable, records: pa.StringArray | None) -> Tensor:
    """Those of some images whose record is among some ids; all where these are None."""
    if records is None:
        return images
    there = torch.from_numpy(np.array(pc.is_in(table.record_ids, value_set=records)))
    return images[there[table.record_of[images].to(torch.int64)]]


def keys_of(table: FeatureTable, images: Tensor) -> np.ndarray:
    """Names by which images of a table, ascending, are found in other copies (:func:`rdd.evaluation.pairing.image_keys`)."""
    ids = table.record_ids.take(pa.array(table.record_of[images].numpy())).to_pylist()
    return image_keys(ids, [table.generators[code] for code in table.generator_of[images].tolist()])
