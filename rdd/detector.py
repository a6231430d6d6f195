"""The artefact: head, encoder identity, text mode, threshold and calibration, in two files without code in them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rdd import storage
from rdd.calibration import Calibration
from rdd.features import FeatureTable, TextMode
from rdd.model import DetectorHead

if TYPE_CHECKING:  # open_clip takes a second to import, and a worker that trains a head has no use for it
    from rdd.clip import ClipEncoder

FORMAT = 1


@dataclass
class Detector:
    """A trained detector of generated images."""

    head: DetectorHead
    """In evaluation mode, on the CPU, in float32."""
    head_config: dict[str, Any]
    """Arguments of :class:`DetectorHead`."""
    encoder_identity: dict[str, Any]
    """Of the encoder that made the features it was trained on."""
    text_mode: TextMode
    """What its text half was trained on."""
    calibration: Calibration
    """Its threshold, and its logits as probabilities."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics of the test set, with intervals."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Git hash, manifest of the features, versions."""
    encoder: "ClipEncoder | None" = None
    """To score images with; scoring features needs none."""

    def save(self, path: str) -> None:
        """Write ``detector.safetensors`` and, last, ``detector.json`` to a directory."""
        described = {
            "format": FORMAT,
            "head_config": self.head_config,
            "encoder_identity": self.encoder_identity,
            "text_mode": self.text_mode,
            **self.calibration.described(),
            "metrics": self.metrics,
            "provenance": self.provenance,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        storage.write_bytes(storage.join(path, "detector.safetensors"), save_tensors(tensors))
        storage.write_json(storage.join(path, "detector.json"), described)

    @classmethod
    def load(cls, path: str, *, encoder: "ClipEncoder | None" = None) -> "Detector":
        """Read a detector.

        Args:
            path: its directory, local or on S3.
            encoder: to score images with; it must be the one that the detector was trained on.

        Raises:
            ValueError: there is no detector, it is of another format, or the encoder is another one.
            RuntimeError: its files are torn.
        """
        place = storage.join(path, "detector.json")
        if not storage.exists(place):
            raise ValueError(f"no detector.json at {path}; jobs/train.py writes it at the end of a run")
        try:
            described = storage.read_json(place)
            if described.pop("format") != FORMAT:
                raise ValueError(f"{place} must be of format {FORMAT}")
            head = DetectorHead(**described["head_config"])
            head.load_state_dict(load_tensors(storage.read_bytes(storage.join(path, "detector.safetensors"))))
            rate, threshold = described.pop("false_positive_rate"), described.pop("threshold")
            calibration = Calibration(threshold=threshold, false_positive_rate=rate, **described.pop("calibration"))
            detector = cls(head=head.eval(), calibration=calibration, **described)
        except ValueError:
            raise
        except Exception as error:  # a torn file fails in its reader's own way
            raise RuntimeError(f"{path} is not a whole detector ({type(error).__name__}: {error})") from error
        if encoder is not None:
            detector.check_encoder(asdict(encoder.identity))
            detector.encoder = encoder
        return detector

    def check_encoder(self, identity: dict[str, Any]) -> None:
        """Refuse features of another encoder.

        Raises:
            ValueError: naming what differs.
        """
        ours, theirs = (json.loads(json.dumps(i)) for i in (self.encoder_identity, identity))
        names = ("model", "weights_sha256", "embed_dim", "quick_gelu", "normalized", "preprocessing")
        different = [name for name in names if ours.get(name) != theirs.get(name)]
        if different:
            what = ", ".join(f"{name} {ours.get(name)!r} there, {theirs.get(name)!r} given" for name in different)
            raise ValueError(f"the detector was trained on another encoder: {what}")

    def check_features(self, table: FeatureTable) -> None:
        """Refuse a feature set that this detector can not score.

        Raises:
            ValueError: another encoder or width, or no text where it is needed.
        """
        self.check_encoder(table.manifest["encoder"])
        table.text_mode(self.text_mode_for(table))

    def text_mode_for(self, table: FeatureTable) -> TextMode:
        """How a feature set is scored: as in training, or by its images alone where it holds no text and none is needed."""
        return self.text_mode if table.has_text or self.needs_text else "none"

    @property
    def needs_text(self) -> bool:
        """Whether every image must come with a caption."""
        return self.text_mode != "none" and self.head.no_text is None

    @torch.no_grad()
    def logits(self, features: torch.Tensor) -> np.ndarray:
        """Raw logits ``(N,)`` float64 of features ``(N, in_features)``, or of image features where no text is needed."""
        return self.head(features.to(torch.float32)).to(torch.float64).numpy()

    def score(self, images: Sequence[Image.Image], texts: Sequence[str] | None = None) -> np.ndarray:
        """Scores of images.

        Args:
            images: N pictures.
            texts: a caption each, where the detector's text mode is not ``none``; a detector that was trained with
                ``model.text_dropout`` does without.

        Returns:
            ``(N,)`` float64 in [0, 1]: sigmoid of the logit, with the prior of the training set; 1 is generated.

        Raises:
            ValueError: captions are missing, or given to a detector that has no use for them.
            RuntimeError: the encoder's weights are not at hand.
        """
        return 1 / (1 + np.exp(-self.logits(self._features(images, texts))))

    def _features(self, images: Sequence[Image.Image], texts: Sequence[str] | None) -> torch.Tensor:
        if self.encoder is None:
            identity = self.encoder_identity
            raise RuntimeError(
                f"images can not be scored without the encoder {identity['model']} with weights {identity['pretrained']} "
                f"(sha256 {identity['weights_sha256'][:12]}...); give it: "
                "Detector.load(path, encoder=ClipEncoder(model, weights))"
            )
        if self.text_mode == "none" and texts is not None:
            raise ValueError("texts must be left out: this detector looks at images alone")
        if texts is None and not self.needs_text:
            return self.encoder.encode_images(images)
        if texts is None or len(texts) != len(images):
            captions = "none" if texts is None else len(texts)
            raise ValueError(f"texts must hold a caption for each of {len(images)} images, got {captions}")
        return torch.cat([self.encoder.encode_images(images), self.encoder.encode_texts(texts)[0]], dim=1)
