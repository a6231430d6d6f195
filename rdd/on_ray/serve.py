"""``rdd serve``: its arguments, and the application that ``serve deploy`` and KubeRay import as ``rdd.on_ray.serve:app``."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from docstring_parser import parse_from_object

from rdd.config.checks import check
from rdd.on_ray.serve_options import ServeOptions
from rdd.serving.web.settings import LEAST_TOKEN, TOKEN_VARIABLE

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
    from rdd.on_ray.serving import serve_until_signalled

    serve_until_signalled(options, settings, host=arguments.host, port=arguments.port)
    return 0
