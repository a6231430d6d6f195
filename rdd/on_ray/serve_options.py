"""What ``rdd serve`` serves, and on how much of the machine."""

import dataclasses
import os
from dataclasses import dataclass

from rdd.config.checks import DAY_S, check
from rdd.detector_identity import encoder_identity_of
from rdd.known_weights import find_weights
from rdd.serving.web.settings import WebSettings, read_token

DRAIN_S = 60.0
"""Seconds in which accepted images are answered once a signal has come."""
SHUTDOWN_S = 30.0
"""And so many more for Ray Serve to end."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What is served, and on how much of the machine."""

    detector: str
    """Directory of the detector, detector/ of a training run; local or on S3."""
    weights: str = ""
    """File of the encoder's weights, or the hub's tag for them; by default they are found by the SHA-256 in the detector."""
    device: str = "cpu"
    """Where the encoder runs: cpu, or cuda with one GPU for each replica."""
    precision: str = "fp32"
    """Of the encoder: fp32, bf16 or fp16."""
    replicas: int = 1
    """Processes that hold the model, at least 1."""
    threads: int = 0
    """CPU threads of a model, at least 0; 0 for as many as there are CPUs."""
    decoders: int = 2
    """Processes that decode images, at least 1."""
    batch_size: int = 8
    """Images in one pass of the encoder, at least 1; fewer where fewer wait."""
    batch_wait_s: float = 0.01
    """Seconds that a batch waits for further images, in [0, 86400]."""
    max_queued: int = 64
    """Images that wait until a decoder has room, and as many until a model has, at least 1; a further one gets 429."""
    max_in_flight: int = WebSettings.max_in_flight
    """Images that are received, wait or are looked at, at least 1; a further one gets 429."""
    max_bytes: int = WebSettings.max_bytes
    """Largest image in bytes."""
    max_pixels: int = WebSettings.max_pixels
    """Largest width x height that is decoded."""
    retry_after_s: float = WebSettings.retry_after_s
    """Seconds after which who got 429 may try again."""
    fetch_contact: str = ""
    """Fetch images by address, too, and send this mail address or page with each request; empty for no fetching."""
    token_file: str = ""
    """File that holds the token; by default it is the environment variable RDD_SERVE_TOKEN."""
    without_token: bool = False
    """Answer everyone who reaches the port, also from other machines."""

    def __post_init__(self) -> None:
        check(self.device in ("cpu", "cuda"), "device", "be cpu or cuda", repr(self.device))
        check(self.precision in ("fp32", "bf16", "fp16"), "precision", "be fp32, bf16 or fp16", repr(self.precision))
        fits = self.device == "cuda" or self.precision != "fp16"
        check(fits, "precision", "be fp32 or bf16 when device is cpu", self.precision)
        for name in ("replicas", "decoders", "batch_size", "max_queued"):
            check(getattr(self, name) >= 1, name, "be at least 1", getattr(self, name))
        check(self.threads >= 0, "threads", "be at least 0", self.threads)
        check(0 <= self.batch_wait_s <= DAY_S, "batch_wait_s", f"lie in [0, {DAY_S}]", self.batch_wait_s)
        check(bool(self.detector), "detector", "be given", "nothing")

    def web_settings(self) -> WebSettings:
        """Limits and the token.

        Raises:
            ValueError: a limit is out of range, the token is too short, or its file is not there.
        """
        names = {field.name for field in dataclasses.fields(WebSettings)} & {field.name for field in dataclasses.fields(self)}
        return WebSettings(**{name: getattr(self, name) for name in names}, token=read_token(self.token_file))


def weights_of(options: ServeOptions) -> str:
    """The file of the weights on this machine, or the tag by which open_clip brings them from the model hub.

    Raises:
        ValueError: there is no detector, or its weights are not here.
        RuntimeError: the detector's description is torn.
    """
    identity = encoder_identity_of(options.detector)
    if options.weights == identity["pretrained"] and not os.path.exists(options.weights):
        return options.weights
    return find_weights(identity, options.weights)
