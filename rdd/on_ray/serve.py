"""``rdd serve``: its arguments, and the application that ``serve deploy`` and KubeRay import as ``rdd.on_ray.serve:app``."""

import argparse
import dataclasses
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from docstring_parser import parse_from_object

from rdd.config.checks import check
from rdd.on_ray.serve_options import DRAIN_S, SHUTDOWN_S, ServeOptions, weights_of
from rdd.serving.web.settings import LEAST_TOKEN, TOKEN_VARIABLE, WebSettings
from rdd.signals import clean_up_may_take

if TYPE_CHECKING:  # Ray takes seconds to import, and --help has no use for it
    from ray.serve import Application

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def app(arguments: Mapping[str, Any]) -> "Application":
    """The application of ``serve.yaml``.

    Args:
        arguments: fields of :class:`ServeOptions`, under ``args`` in the file.

    Raises:
        ValueError: one is unknown or out of range, or there is no token and ``without_token`` is not set.
    """
    from rdd.on_ray.deployments import application

    known = [field.name for field in dataclasses.fields(ServeOptions)]
    if unknown := set(arguments) - set(known):
        raise ValueError(f"args must be among {', '.join(known)}, got {', '.join(sorted(unknown))}")
    if "detector" not in arguments:
        raise ValueError("args must name the detector, got none; give the directory detector/ of a training run")
    options = ServeOptions(**arguments)
    settings = options.web_settings()
    if not settings.token and not options.without_token:
        raise ValueError(
            f"{TOKEN_VARIABLE} must hold a token of at least {LEAST_TOKEN} characters, got none; set it where Ray runs, or say "
            "by without_token: true that everyone who reaches the port may ask"
        )
    return application(options, settings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``rdd serve``: one for each field of :class:`ServeOptions`, and where it listens."""
    sentences = {param.arg_name: param.description or "" for param in parse_from_object(ServeOptions).params}
    for field in dataclasses.fields(ServeOptions):
        name, help_line = "--" + field.name.replace("_", "-"), sentences[field.name]
        if field.type is bool:
            parser.add_argument(name, action="store_true", help=help_line)
        elif field.default is dataclasses.MISSING:
            parser.add_argument(name, required=True, help=help_line)
        else:
            shown = "" if field.default == "" else " (default: %(default)s)"
            parser.add_argument(name, type=type(field.default), default=field.default, help=help_line + shown)
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="Serve in this process alone, without Ray: it starts in seconds, with one model and --decoders threads.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on (default: %(default)s, this machine alone).")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on (default: %(default)s).")


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Args:
        arguments: as :func:`add_arguments` parses them.

    Returns:
        Exit code; SIGTERM and SIGINT end the process with 143 and 130.

    Raises:
        ValueError: an option is wrong; nothing has been started.
        RuntimeError: the server could not start.
    """
    names = [field.name for field in dataclasses.fields(ServeOptions)]
    options = ServeOptions(**{name: getattr(arguments, name) for name in names})
    settings = options.web_settings()
    check(1 <= arguments.port <= 65535, "--port", "lie in [1, 65535]", arguments.port)
    if arguments.host not in LOOPBACK and not settings.token and not options.without_token:
        raise ValueError(
            f"--host must be one of {', '.join(LOOPBACK)} where there is no token, got {arguments.host}; "
            f"set {TOKEN_VARIABLE}, give --token-file, or say with --without-token that everyone may ask"
        )
    if arguments.host in LOOPBACK and not settings.token and not options.without_token:
        settings = dataclasses.replace(settings, hosts=LOOPBACK)
    check_port(arguments.host, arguments.port)
    weights = weights_of(options)  # an error in a process of Ray would come minutes later, and in more words
    clean_up_may_take(DRAIN_S + SHUTDOWN_S)
    if arguments.in_process:
        _serve_in_process(options, settings, weights, arguments.host, arguments.port)
    else:
        from rdd.on_ray.serve_run import serve_on_ray

        serve_on_ray(options, settings, host=arguments.host, port=arguments.port)
    return 0


def _serve_in_process(options: ServeOptions, settings: WebSettings, weights: str, host: str, port: int) -> None:
    import torch

    from rdd.serving.predictor import Predictor
    from rdd.serving.web.in_process import serve_in_process

    if options.threads:
        torch.set_num_threads(options.threads)
    predictor = Predictor.load(
        options.detector,
        weights=weights,
        device=options.device,
        precision=options.precision,
        max_pixels=options.max_pixels,
    )
    serve_in_process(
        predictor,
        options.detector,
        settings,
        host=host,
        port=port,
        drain_s=DRAIN_S,
        decoders=options.decoders,
        batch_size=options.batch_size,
    )


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken; Ray Serve would take minutes to say so.

    Raises:
        ValueError: it is.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(f"port {port} of {host} must be free, got: {error.strerror}; give another --port") from error
