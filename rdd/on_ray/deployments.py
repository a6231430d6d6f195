"""The server on Ray Serve: processes that decode, processes that hold the model, and one that answers HTTP.

What Ray Serve 2.60 does, and what follows from it:

* A full queue raises ``BackPressureError`` in the process that asks, and becomes 503 at the door unless the deployment says
  otherwise. The door asks decoders and models, so it turns theirs into 429 itself; its own is set to 429.
* ``serve.shutdown`` and ``serve delete`` end all deployments of an application at the same time, also a model that a decoded
  image is still to come to. :mod:`rdd.on_ray.serve_run` therefore closes the door first.
* What was sent to a replica that dies comes back as ``RayActorError``. Images change nothing, so they are sent once more.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from rdd.detector_identity import encoder_identity_of
from rdd.on_ray.loopback import keep_replica_on_loopback
from rdd.on_ray.ray_backend import RayBackend
from rdd.on_ray.serve_options import ServeOptions, weights_of
from rdd.serving.answer import Answer
from rdd.serving.prepare import Prepared, Preparer
from rdd.serving.web.app import build_app
from rdd.serving.web.backend import explained
from rdd.serving.web.description import described
from rdd.serving.web.gate import Gate
from rdd.serving.web.settings import WebSettings

logger = logging.getLogger(__name__)

NAME = "rdd"
"""Of the application."""

_OTHERS = 100
"""Requests beside the images at the same time: health, metrics, the page; and those that are told that it is full."""
_ROOM_OF_DECODER = 16
_BATCHES_IN_MODEL = 4
"""Images wait in the processes: who finds them full is sent again after up to a second, and a batch would not fill."""

_QUIET = LoggingConfig(enable_access_log=False, log_level="WARNING")


def application(options: ServeOptions, settings: WebSettings) -> Application:
    """Decoders, models and the door, wired.

    Args:
        options: how many of each.
        settings: limits and the token.
    """
    full = BackpressureConfig(status_code=429, retry_after_s=settings.retry_after_s)
    gpus = int(options.device == "cuda")
    decode = serve.deployment(
        Decode,
        name="Decode",
        num_replicas=options.decoders,
        max_ongoing_requests=_ROOM_OF_DECODER,
        max_queued_requests=options.max_queued,
        ray_actor_options={"num_cpus": DECODER_CPUS},
        backpressure_config=full,
    ).bind(options.detector, settings.max_pixels)
    model = serve.deployment(
        Model,
        name="Model",
        num_replicas=options.replicas,
        max_ongoing_requests=_BATCHES_IN_MODEL * options.batch_size,
        max_queued_requests=options.max_queued,
        ray_actor_options={"num_cpus": MODEL_CPUS, "num_gpus": gpus},
        backpressure_config=full,
    ).bind(options, settings.max_pixels)
    door = serve.deployment(
        Door,
        name="Door",
        max_ongoing_requests=settings.max_in_flight + _OTHERS,
        max_queued_requests=_OTHERS,
        ray_actor_options={"num_cpus": 0},
        backpressure_config=full,
        logging_config=_QUIET,
    )
    return door.bind(decode, model, settings)


DECODER_CPUS = 0.5
"""That Ray reserves for a decoder; it uses one while it decodes."""
MODEL_CPUS = 1.0
"""That Ray reserves for a model beside its GPU; without one it uses ``threads``."""


class Decode:
    """Decodes, resizes and crops; imports no torch.

    Args:
        detector: directory of the detector, whose encoder says how.
        max_pixels: largest width x height that is decoded.
    """

    def __init__(self, detector: str, max_pixels: int) -> None:
        keep_replica_on_loopback()
        self._preparer = Preparer(encoder_identity_of(detector)["preprocessing"], max_pixels=max_pixels)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")  # a picture of 64 million pixels takes 200 MB

    async def __call__(self, data: bytes, name: str | None) -> Prepared:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._preparer, data, name)


class Model:
    """Scores images, as many at once as wait.

    Args:
        options: which detector, and where it runs.
        max_pixels: largest width x height that a decoder lets through.
    """

    def __init__(self, options: ServeOptions, max_pixels: int) -> None:
        keep_replica_on_loopback()
        import torch

        from rdd.serving.predictor import Predictor

        torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))  # Ray sets one for each CPU that it reserves
        self._options = options
        self._predictor = Predictor.load(
            options.detector,
            weights=weights_of(options),
            device=options.device,
            precision=options.precision,
            max_pixels=max_pixels,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._score.set_max_batch_size(options.batch_size)
        self._score.set_batch_wait_timeout_s(options.batch_wait_s)

    async def __call__(self, image: Prepared, caption: str | None) -> Answer:
        return await self._score(image, caption)

    @serve.batch
    async def _score(self, images: list[Prepared], captions: list[str | None]) -> list[Answer]:
        return await self._in_thread(self._predictor.answers, images, captions)

    async def explain(self, image: Prepared, caption: str | None) -> dict[str, Any]:
        """The explanation of a readable image."""
        return await self._in_thread(explained, self._predictor, image, caption)

    async def describe(self) -> dict[str, Any]:
        """The detector."""
        return described(self._predictor)

    async def reload(self, detector: str = "") -> str:
        """Take another detector of the same encoder; images that are being looked at get the answer of the one before.

        Args:
            detector: its directory; by default the directory that was served from the beginning, read anew.

        Returns:
            Its version.

        Raises:
            ValueError: there is none, or it is of another encoder; the one before stays.
            RuntimeError: its files are torn; the one before stays.
        """
        return await self._in_thread(self._replace, detector or self._options.detector)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """What ``serve deploy`` calls where ``user_config`` of the file has changed: ``detector: DIRECTORY``.

        A detector that can not be taken leaves the one before in its place, and an error in the log: raising here would end the
        replica, and with it the last one that works.
        """
        try:
            version = await self.reload(user_config.get("detector", ""))
            logger.warning("detector %s is served", version)
        except Exception:  # whatever it is, also of a store on S3
            logger.exception("the detector of user_config can not be taken, and the one before stays")

    def _replace(self, path: str) -> str:
        self._predictor = self._predictor.with_detector(path)
        return self._predictor.detector.version

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """One at a time, beside the event loop that answers Ray's questions."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


@serve.ingress()
class Door:
    """Answers HTTP.

    Args:
        decode: decodes.
        model: scores.
        settings: limits and the token.
    """

    def __init__(self, decode: DeploymentHandle, model: DeploymentHandle, settings: WebSettings) -> None:
        keep_replica_on_loopback()
        self._gate = Gate(settings.max_in_flight, settings.retry_after_s)
        self._backend = RayBackend(decode, model, settings.retry_after_s)
        self._settings = settings
        _log_where_serve_logs()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return build_app(self._backend, self._settings, self._gate)

    async def close(self) -> int:
        """Accept no image any more.

        Returns:
            Images that are still in flight.
        """
        self._gate.close()
        return self._gate.in_flight


def _log_where_serve_logs() -> None:
    """Send this project's lines to the file of the replica, below logs/serve of Ray's session."""
    ours = logging.getLogger("rdd")
    ours.setLevel(logging.INFO)
    ours.handlers = list(logging.getLogger("ray.serve").handlers)
