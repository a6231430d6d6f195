"""Which encoder a detector was trained on, told from its description: loading it would take torch."""

from typing import Any

from rdd import storage

_IDENTITY = {"encoder_identity": {"model": str, "pretrained": str, "weights_sha256": str, "preprocessing": dict}}


def encoder_identity_of(detector: str) -> dict[str, Any]:
    """Fields of the :class:`rdd.encoder_identity.EncoderIdentity` that a detector names; loading it would take torch.

    Args:
        detector: its directory, local or on S3.

    Raises:
        ValueError: there is no detector.
        RuntimeError: its description is torn.
    """
    place = storage.join(detector, "detector.json")
    if not storage.exists(place):
        raise ValueError(
            f"no detector.json at {detector}; jobs/train.py writes it at the end of a run, in its folder detector/"
        )
    return storage.read_json(place, _IDENTITY, way_out="make the detector anew")["encoder_identity"]
