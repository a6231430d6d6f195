"""``rdd serve`` from its start to its end: Ray, the application, reloads at SIGHUP, and an end that loses no image."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator

import ray
from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from rdd.config import ClusterConfig
from rdd.on_ray.deployments import DECODER_CPUS, MODEL_CPUS, NAME, application
from rdd.on_ray.proxy import CALLBACK
from rdd.on_ray.serve_options import DRAIN_S, ServeOptions
from rdd.on_ray.session import ray_session
from rdd.serving.web.settings import WebSettings
from rdd.signals import signals_held

logger = logging.getLogger(__name__)

_LOOK_S = 0.2


def serve_on_ray(options: ServeOptions, settings: WebSettings, *, host: str, port: int) -> None:
    """Serve; SIGTERM or SIGINT ends the process once what was accepted is answered, SIGHUP takes the detector anew.

    Args:
        options: what is served.
        settings: limits and the token.
        host: address to listen on.
        port: port to listen on.

    Raises:
        ValueError: this Ray is too small.
        RuntimeError: the application could not start.
    """
    for name, value in CALLBACK.items():
        os.environ.setdefault(name, value)
    bundles = [{"CPU": MODEL_CPUS, "GPU": float(options.device == "cuda")}] * options.replicas
    bundles += [{"CPU": DECODER_CPUS}] * options.decoders
    with (
        _hang_ups() as hang_up,
        ray_session(ClusterConfig(address="local"), bundles, knobs="--replicas or --decoders"),
    ):
        try:
            _start(options, settings, host, port)
            logger.info("serving on http://%s:%d: the page at /, routes at /docs, Ctrl-C ends it", _shown(host), port)
            while True:
                if hang_up.wait(_LOOK_S):
                    hang_up.clear()
                    _reload()
        finally:
            try:
                _drain()
            finally:
                with signals_held(handlers_replaced=True):
                    serve.shutdown()


@contextlib.contextmanager
def _hang_ups() -> Iterator[threading.Event]:
    """An event that SIGHUP sets."""
    event = threading.Event()
    before = signal.signal(signal.SIGHUP, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGHUP, before)


def _start(options: ServeOptions, settings: WebSettings, host: str, port: int) -> None:
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    with signals_held(handlers_replaced=True):
        serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
    try:
        serve.run(application(options, settings), name=NAME, route_prefix="/", logging_config=quiet)
    except RuntimeError as error:
        message = serve.status().applications[NAME].message
        raise RuntimeError(f"the server did not start: {' '.join((message or str(error)).split())[-500:]}") from error


def _reload() -> None:
    """Take the detector anew in every model; what fails is said, and the detector before stays."""
    try:
        versions = serve.get_deployment_handle("Model", NAME).broadcast("reload").results(timeout_s=DRAIN_S)
    except Exception as error:  # whatever it is, the server goes on
        said = " ".join(str(error).split())[-500:]
        logger.error("the detector can not be taken anew by every model, and those that failed keep the one before: %s", said)
    else:
        logger.info("detector %s is served", ", ".join(sorted({version[:12] for version in versions})))


def _drain() -> None:
    """Close the door, and wait until what has come in is answered."""
    status = serve.status().applications.get(NAME) if ray.is_initialized() else None
    if status is None:
        return
    door: DeploymentHandle = serve.get_deployment_handle("Door", NAME)
    until = time.monotonic() + DRAIN_S
    while time.monotonic() < until:
        try:
            left = sum(door.broadcast("close").results(timeout_s=DRAIN_S))
        except DeploymentUnavailableError:  # it has not started, or died with all that it held
            return
        if not left:
            return
        time.sleep(_LOOK_S)
    logger.warning("%d images were accepted and are not answered after %g s", left, DRAIN_S)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
