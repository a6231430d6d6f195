"""What an answer rests on: the nearest training images, and which parts of the picture move the score."""

import base64
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from rdd.detector import Detector
from rdd.reference import Neighbour, Reference
from rdd.serving.occlusion import CELLS, Occlusion, occlusion
from rdd.serving.predictor import Predictor
from rdd.serving.prepare import Prepared


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What speaks for an answer, of one image."""

    nearest: tuple[Neighbour, ...]
    """Training images whose features are nearest, the nearest first, at most one a record."""
    note: str
    """Of which images they are the nearest, or why there are none."""
    occlusion: Occlusion
    """How the logit falls where a part is covered."""

    @property
    def png(self) -> bytes:
        """The occlusion map over the picture that the encoder saw."""
        return self.occlusion.png

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; the picture as a data address."""
        rows, columns = self.occlusion.logit_falls.shape
        return {
            "nearest": [asdict(one) for one in self.nearest],
            "note": self.note,
            "occlusion": {
                "png": f"data:image/png;base64,{base64.b64encode(self.png).decode()}",
                "legend": self.occlusion.legend,
                "rows": rows,
                "columns": columns,
                "logit_falls": self.occlusion.logit_falls.tolist(),
            },
        }


def explain(
    predictor: Predictor, prepared: Prepared, *, caption: str | None = None, neighbours: int = 5, cells: int = CELLS
) -> Explanation:
    """Explain the answer to one image, by ``cells`` x ``cells`` + 1 passes of the encoder: 50, unless told otherwise.

    Args:
        predictor: that gives the answer.
        prepared: a readable image, from its :attr:`Predictor.preparer`.
        caption: its prompt, as the answer was given with; a detector that looks at images alone leaves it aside.
        neighbours: training images to name, at least 0.
        cells: parts a side that are covered in turn, see :func:`rdd.serving.occlusion.occlusion`.

    Raises:
        ValueError: the image could not be read, the detector can not do without a caption, or a number is out of range.
    """
    if prepared.pixels is None:
        why = f"{prepared.error.reason}: {prepared.error.detail}" if prepared.error else "no pixels"
        raise ValueError(f"an image must be readable to be explained, got {why}")
    if neighbours < 0:
        raise ValueError(f"neighbours must be at least 0, got {neighbours}")
    detector, uncovered = predictor.detector, []
    text = _text(detector, caption if predictor.uses(caption) else None)

    def logits_of(pictures: np.ndarray) -> np.ndarray:
        images = detector.image_features(torch.from_numpy(pictures))
        uncovered.append(images[0].numpy())
        return detector.logits(torch.cat([images, text.expand(len(images), -1)], dim=1))

    covered = occlusion(prepared.pixels, logits_of, cells=cells)
    nearest, note = _nearest(detector.reference, uncovered[0], neighbours)
    return Explanation(nearest=nearest, note=note, occlusion=covered)


def _text(detector: Detector, caption: str | None) -> torch.Tensor:
    """``(1, D)``: what the head takes beside the features of each picture; of no width where it takes none."""
    if caption is not None:
        assert detector.encoder is not None, "a predictor has one"
        return detector.encoder.encode_texts([caption])[0]
    if detector.needs_text:
        raise ValueError("caption must be given to a detector that takes each image with its prompt, got none")
    return torch.empty(1, 0)


def _nearest(reference: Reference | None, features: np.ndarray, number: int) -> tuple[tuple[Neighbour, ...], str]:
    """The nearest training images, and what they are the nearest of."""
    if reference is None:
        return (), (
            "this detector carries no reference images, so the nearest training images are not known: it was made by an "
            "earlier version or with evaluate.reference_images 0; train it again with evaluate.reference_images above 0"
        )
    images, records = len(reference.images.record_ids), reference.images.records
    found = tuple(reference.images.nearest(features, number))
    return found, f"the nearest of {images} training images of {records} records that travel with the detector, one a record"
