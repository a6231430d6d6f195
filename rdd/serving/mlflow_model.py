"""A detector as an MLflow model: image files in, answers out.

MLflow loads it by the name of this module, so there is no pickle in it, and the environment that loads it must have this
project installed. What is logged is the detector alone. The encoder's weights, hundreds of megabytes that never change, are
looked for where the model is loaded, by the SHA-256 that the detector names:

    mlflow.pyfunc.load_model("models:/NAME@ALIAS", model_config={"weights": "FILE"})   # or without, where they are found
    RDD_WEIGHTS=FILE mlflow models predict -m models:/NAME@ALIAS -i input.json --env-manager local

with ``input.json`` such as ``{"dataframe_records": [{"image": "<base64 of the file>"}]}``.
"""

import base64
import dataclasses
import io
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from PIL import Image

from rdd.detector import Detector
from rdd.detector_identity import encoder_identity_of
from rdd.known_weights import find_weights
from rdd.serving.answer import Answer, classification

if TYPE_CHECKING:
    import pandas as pd

    from rdd.serving.predictor import Predictor

WEIGHTS_VARIABLE = "RDD_WEIGHTS"
"""Environment variable that names the file of the encoder's weights where the model is loaded."""

FORMATS = ("answer", "huggingface")

_CONFIG = {"weights": "", "device": "cpu", "precision": "fp32"}
"""What ``model_config`` may set when the model is loaded, with the defaults; see :meth:`Predictor.load`."""

_AT_ONCE = 64
"""Images that are decoded before the encoder sees them, so that a long table does not lie in memory as pixels."""

_REQUIRED = ("mlflow", "torch", "torchvision", "open_clip_torch", "numpy", "pandas", "pillow", "pyarrow", "safetensors")
"""Packages whose versions are named in the model, as they are where it is logged."""

_TYPES = {str: "string", float: "double", int: "long", bool: "boolean"}


class DetectorModel:
    """What MLflow calls.

    Args:
        predictor: of the detector.
    """

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor

    def predict(
        self, model_input: "pd.DataFrame", params: Mapping[str, Any] | None = None
    ) -> "pd.DataFrame | list[list[dict[str, Any]]]":
        """Answers for a table of images.

        Args:
            model_input: a row an image: column ``image``, bytes of the file, and where the detector sees text, ``caption``.
            params: ``format``: ``answer``, or ``huggingface`` for the output of its image-classification task.

        Returns:
            A table with the fields of :class:`~rdd.serving.answer.Answer` for columns, why an image could not be read
            under ``error``; or of each image a list of ``label`` and ``score``.

        Raises:
            ValueError: the format is unknown, or an image can not be read and its answer has no place for that.
        """
        import pandas as pd

        chosen = (params or {}).get("format", FORMATS[0])
        if chosen not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {chosen!r}")
        captions = model_input["caption"].tolist() if "caption" in model_input else [None] * len(model_input)
        answers = list(self._answers(model_input["image"].tolist(), captions))
        if chosen == "huggingface":
            return [_classified(number, answer) for number, answer in enumerate(answers)]
        return pd.DataFrame([answer.to_dict() for answer in answers], columns=_fields(), index=model_input.index, dtype=object)

    def _answers(self, images: Sequence[bytes], captions: Sequence[Any]) -> Iterator[Answer]:
        for start in range(0, len(images), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            prepared = [self._predictor.preparer(_bytes_of(data)) for data in images[some]]
            # pandas has NaN where a text is missing
            texts = [caption if isinstance(caption, str) else None for caption in captions[some]]
            yield from self._predictor.answers(prepared, texts)


def _bytes_of(data: Any) -> bytes:
    """The file of a row; nothing where pandas has NaN or None for it, which becomes an answer with its reason."""
    return bytes(data) if isinstance(data, bytes | bytearray | memoryview) else b""


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> DetectorModel:
    """What MLflow calls to load the model.

    Args:
        path: the detector's directory.
        model_config: see ``_CONFIG``.

    Raises:
        ValueError: the encoder's weights are not found, or others were given.
    """
    from rdd.serving.predictor import Predictor  # the encoder's library takes seconds that a training need not wait for

    settings = _CONFIG | dict(model_config or {})
    given = settings["weights"] or os.environ.get(WEIGHTS_VARIABLE, "")
    weights = find_weights(encoder_identity_of(path), given, option=f"{WEIGHTS_VARIABLE} or model_config weights")
    return DetectorModel(Predictor.load(path, weights=weights, device=settings["device"], precision=settings["precision"]))


def described_model(detector: Detector) -> dict[str, Any]:
    """What MLflow is told of the model, as JSON has it; :meth:`rdd.tracking.tracker.Tracker.model` takes it.

    Args:
        detector: saved, so that it has its version.
    """
    identity = detector.encoder_identity
    return {
        "loader": __name__,
        "signature": {
            "inputs": [
                {"name": "image", "type": "binary", "required": True},
                {"name": "caption", "type": "string", "required": detector.needs_text},
            ][: 1 if detector.text_mode == "none" else 2],
            "outputs": [{"name": name, **_type_of(hint)} for name, hint in get_type_hints(Answer).items()],
            "params": [{"name": "format", "type": "string", "default": FORMATS[0], "shape": None}],
        },
        "example": {"image": base64.b64encode(_example()).decode()}
        | ({} if detector.text_mode == "none" else {"caption": "a photograph of noise"}),
        "model_config": _CONFIG,
        "requirements": [f"{name}=={version(name)}" for name in _REQUIRED],
        "metadata": {
            "model_version": detector.version,
            "needs": f"the package rdd {version('rdd')} of this project, which is on no package index",
            "encoder": identity["model"],
            "encoder_weights_sha256": identity["weights_sha256"],
            "encoder_weights": "not in the model: looked for by their hash where it is loaded, or named by "
            f"{WEIGHTS_VARIABLE} or model_config weights",
        },
    }


def _example() -> bytes:
    """A small PNG file of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _classified(number: int, answer: Answer) -> list[dict[str, Any]]:
    try:
        return classification(answer)
    except ValueError as error:
        raise ValueError(f"row {number}: {error}; params format answer gives an unreadable image its reason") from error


def _fields() -> list[str]:
    return [field.name for field in dataclasses.fields(Answer)]


def _type_of(hint: Any) -> dict[str, Any]:
    """MLflow's name of a type of Python, and whether there is always a value."""
    if get_origin(hint) in (types.UnionType, Union):
        (inner,) = (one for one in get_args(hint) if one is not types.NoneType)
        return _type_of(inner) | {"required": False}
    if get_origin(hint) is Literal:
        return {"type": "string", "required": True}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": {"type": _type_of(get_args(hint)[0])["type"], **_properties(get_args(hint)[0])}} | {
            "required": True
        }
    if dataclasses.is_dataclass(hint):
        return {"type": "object", **_properties(hint), "required": True}
    return {"type": _TYPES[hint], "required": True}


def _properties(hint: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(hint):
        return {}
    return {"properties": {name: _type_of(inner) for name, inner in get_type_hints(hint).items()}}
