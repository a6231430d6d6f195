"""The artefact: head, encoder identity, text mode, calibration and reference images, in three files without code in them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rdd import storage
from rdd.bands import Bands
from rdd.calibration import Calibration
from rdd.config.added import ADDED
from rdd.config.parse import from_dict
from rdd.encoder_identity import differences
from rdd.feature_names import PROJECTED, is_image_feature
from rdd.features import FeatureTable, TextMode
from rdd.hashing import sha256_bytes
from rdd.model import DetectorHead
from rdd.reference import Reference
from rdd.reference_file import REFERENCE_FILE, describe, read_reference, to_file

if TYPE_CHECKING:  # open_clip takes a second to import, and a worker that trains a head has no use for it
    from rdd.clip import ClipEncoder

FORMAT = 5
"""Of ``detector.json``; 2 carries the hash of its parts, 3 names the inputs too, 4 the bands, 5 the reference."""

_PARTS_2 = ("head_config", "encoder_identity", "text_mode", "threshold", "false_positive_rate", "calibration")
_PARTS_3 = (*_PARTS_2, "inputs")
_PARTS_4 = (*_PARTS_3, "bands")
_PARTS = {2: _PARTS_2, 3: _PARTS_3, 4: _PARTS_4, 5: (*_PARTS_4, "reference")}
"""By format, what an answer depends on, beside the weights; of the reference images it is their file's hash."""

_OF_OLDER_HEADS = {path.removeprefix("model."): value for path, value in ADDED.items() if path.startswith("model.")}
"""Settings that the ``head_config`` of an older detector lacks, with what they were."""


@dataclass
class Detector:
    """A trained detector of generated images."""

    head: DetectorHead
    """In evaluation mode, on the CPU, in float32."""
    head_config: dict[str, Any]
    """Arguments of :class:`DetectorHead`."""
    inputs: dict[str, int]
    """Names and widths of the features of an image that it looks at, in their order."""
    encoder_identity: dict[str, Any]
    """Of the encoder that made the features it was trained on."""
    text_mode: TextMode
    """What its text half was trained on."""
    calibration: Calibration
    """Its threshold and bands, and its logits as probabilities."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Metrics of the test set, with intervals."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Git hash, manifest of the features, versions."""
    reference: Reference | None = None
    """Training images, and from where on an image is unlike them; None of a detector that was made without."""
    encoder: "ClipEncoder | None" = None
    """To score images with; scoring features needs none."""
    version: str = ""
    """SHA-256 of what an answer depends on; empty until it has been saved."""

    def save(self, path: str) -> None:
        """Write ``detector.safetensors``, ``reference.parquet`` and, last, ``detector.json`` to a directory."""
        images = b"" if self.reference is None else to_file(self.reference.images)
        described = {
            "format": FORMAT,
            "head_config": self.head_config,
            "inputs": self.inputs,
            "encoder_identity": self.encoder_identity,
            "text_mode": self.text_mode,
            **self.calibration.described(),
            "reference": describe(self.reference, images),
            "metrics": self.metrics,
            "provenance": self.provenance,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        weights = save_tensors(tensors)
        self.version = described["parts_sha256"] = _parts_sha256(described, weights)
        storage.write_bytes(storage.join(path, "detector.safetensors"), weights)
        place = storage.join(path, REFERENCE_FILE)
        if images:
            storage.write_bytes(place, images)
        elif storage.exists(place):  # of a detector that was here before
            storage.delete_file(place)
        storage.write_json(storage.join(path, "detector.json"), described)

    @classmethod
    def load(cls, path: str, *, encoder: "ClipEncoder | None" = None) -> "Detector":
        """Read a detector.

        Args:
            path: its directory, local or on S3.
            encoder: to score images with; it must be the one that the detector was trained on.

        Raises:
            ValueError: there is no detector, or the encoder is another one.
            RuntimeError: its files are torn, of another format, or not as they were written; the field is named.
        """
        place = storage.join(path, "detector.json")
        if not storage.exists(place):
            raise ValueError(f"no detector.json at {path}; jobs/train.py writes it at the end of a run")
        described = storage.read_json(place, dict, way_out=_MAKE_ANEW)
        weights_place = storage.join(path, "detector.safetensors")
        if not storage.exists(weights_place):
            raise RuntimeError(f"{weights_place} is missing; {_MAKE_ANEW}")
        weights = storage.read_bytes(weights_place)
        try:
            detector = _detector_of(described, weights)
        except Exception as error:  # a wrong field fails in its reader's own way, and safetensors in another
            what = " ".join(str(error).split()) or type(error).__name__
            raise RuntimeError(f"{place} is not a whole detector: {what}; {_MAKE_ANEW}") from error
        detector.reference = read_reference(path, described.get("reference"), detector.inputs, way_out=_MAKE_ANEW)
        if encoder is not None:
            detector.use(encoder)
        return detector

    def use(self, encoder: "ClipEncoder") -> None:
        """Score images with an encoder.

        Raises:
            ValueError: it is not the one that the detector was trained on; what differs is named.
        """
        self.check_encoder(asdict(encoder.identity))
        self.encoder = encoder

    def check_encoder(self, identity: dict[str, Any]) -> None:
        """Refuse features of another encoder.

        Raises:
            ValueError: naming what differs.
        """
        if different := differences(self.encoder_identity, identity):
            what = ", ".join(f"{name} {ours!r} there, {theirs!r} given" for name, (ours, theirs) in different.items())
            raise ValueError(f"the detector was trained on another encoder: {what}")

    def check_features(self, table: FeatureTable) -> None:
        """Refuse a feature set that this detector can not score.

        Raises:
            ValueError: another encoder, other inputs, or no text where it is needed.
        """
        self.check_encoder(table.manifest["encoder"])
        if list(table.inputs.items()) != list(self.inputs.items()):
            ours, theirs = (
                ", ".join(f"{name} ({width} wide)" for name, width in i.items()) for i in (self.inputs, table.inputs)
            )
            raise ValueError(f"the detector takes features.inputs [{', '.join(self.inputs)}]: {ours}, got {theirs}")
        if self.needs_text and not table.has_text:
            raise ValueError(
                f"the detector takes each image with its prompt (text_mode {self.text_mode}) and the features hold none; "
                "embed them with embed.text true, or train a detector with features.text_mode none or model.text_dropout"
            )

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
        return 1 / (1 + np.exp(-self.logits(self.features(images, texts))))

    def features(self, images: Sequence[Image.Image] | torch.Tensor, texts: Sequence[str] | None = None) -> torch.Tensor:
        """What the head takes, ``(N, in_features)`` or without text, float32.

        Args:
            images: N pictures, or pixels ``(N, height, width, 3)`` uint8 as the encoder's preprocessing makes them.
            texts: as in :meth:`score`.

        Raises:
            ValueError: captions are missing, or given to a detector that has no use for them.
            RuntimeError: the encoder's weights are not at hand.
        """
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
            return self.image_features(images)
        if texts is None or len(texts) != len(images):
            captions = "none" if texts is None else len(texts)
            raise ValueError(f"texts must hold a caption for each of {len(images)} images, got {captions}")
        return torch.cat([self.image_features(images), self.encoder.encode_texts(texts)[0]], dim=1)

    def image_features(self, images: Sequence[Image.Image] | torch.Tensor) -> torch.Tensor:
        """The inputs of N images end to end, ``(N, sum of the widths)`` float32; captions come beside them."""
        assert self.encoder is not None
        by_name = self.encoder.image_features(images, list(self.inputs))
        return torch.cat([by_name[name] for name in self.inputs], dim=1)


_MAKE_ANEW = "delete metrics.json of the run and start it again, which makes the detector anew"


def _detector_of(described: Any, weights: bytes) -> Detector:
    """The detector that ``detector.json`` and the weights describe, each field checked.

    Raises:
        Exception: naming what is wrong; of which type depends on the reader that finds it.
    """
    if not isinstance(described, dict) or described.get("format") not in _PARTS:
        given = described.get("format") if isinstance(described, dict) else type(described).__name__
        raise ValueError(f"format must be one of {', '.join(map(str, _PARTS))}, got {given}")
    missing = [
        name for name in (*_PARTS[described["format"]], "metrics", "provenance", "parts_sha256") if name not in described
    ]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be there, got nothing")
    for name in ("head_config", "encoder_identity", "calibration", "metrics", "provenance"):
        if not isinstance(described[name], dict):
            raise ValueError(f"{name} must be a mapping, got {described[name]!r}")
    if described["text_mode"] not in get_args(TextMode):
        raise ValueError(f"text_mode must be one of {', '.join(get_args(TextMode))}, got {described['text_mode']!r}")
    config = dict(described["head_config"])
    in_features = config.pop("in_features", None)
    if type(in_features) is not int or in_features < 1:
        raise ValueError(f"head_config.in_features must be at least 1, got {in_features!r}")
    model = from_dict({"model": _OF_OLDER_HEADS | config}).model
    inputs = _inputs_of(described)
    text_features = in_features - sum(inputs.values())
    if text_features < 0 or (text_features == 0) != (described["text_mode"] == "none"):
        raise ValueError(f"inputs must go with text_mode and head_config.in_features, {in_features}, got {inputs}")
    calibration = Calibration(
        threshold=described["threshold"],
        false_positive_rate=described["false_positive_rate"],
        **described["calibration"],
        bands=None if described.get("bands") is None else Bands.from_json(described["bands"]),
    )
    if _parts_sha256(described, weights) != described["parts_sha256"]:
        raise ValueError("parts_sha256 must be that of the weights and settings, got another: a part was changed or replaced")
    head = DetectorHead(in_features, **asdict(model), text_features=text_features, input_widths=list(inputs.values()))
    head.load_state_dict(load_tensors(weights))
    return Detector(
        head=head.eval(),
        head_config=described["head_config"],
        inputs=inputs,
        encoder_identity=described["encoder_identity"],
        text_mode=described["text_mode"],
        calibration=calibration,
        metrics=described["metrics"],
        provenance=described["provenance"],
        version=described["parts_sha256"],
    )


def _inputs_of(described: dict[str, Any]) -> dict[str, int]:
    """The inputs that a detector names; one of format 2 looks at the projection.

    Raises:
        ValueError: they are no widths by name.
    """
    inputs: Any = (
        described.get("inputs") if described["format"] > 2 else {PROJECTED: described["encoder_identity"].get("embed_dim")}
    )
    whole = isinstance(inputs, dict) and bool(inputs) and all(map(is_image_feature, inputs))
    if not whole or not all(type(width) is int and width >= 1 for width in inputs.values()):
        raise ValueError(f"inputs must be widths of features of images by name, got {inputs!r}")
    return inputs


def _parts_sha256(described: dict[str, Any], weights: bytes) -> str:
    """SHA-256 of everything that an answer depends on: the weights, and the settings in one order."""
    parts = json.dumps({name: described[name] for name in _PARTS[described["format"]]}, sort_keys=True)
    return sha256_bytes(sha256_bytes(weights).encode() + parts.encode())
