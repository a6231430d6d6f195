"""The console script ``rdd``: ``rdd predict`` and ``rdd serve``. Ray is imported only by what needs it.

Exit codes are those of a job (:mod:`rdd.job`): 0 done, 1 the work failed, 2 the request was wrong, 130 and 143 by signal.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from rdd import __version__
from rdd.config.fetch import FetchConfig
from rdd.job import errors_exit, log_to_stderr
from rdd.signals import signals_end_the_job


@dataclass(frozen=True)
class _Command:
    """What ``rdd`` can do."""

    module: str
    """Imported when it is asked for; it has ``add_arguments(parser)`` and ``run(arguments)``, which returns the exit code."""
    line: str


_COMMANDS = {
    "predict": _Command("rdd.serving.predict_command", "answers for images: verdict, probability, reasons"),
    "serve": _Command("rdd.on_ray.serve", "answers over HTTP, and a page to drop images on"),
}


def main(words: Sequence[str] | None = None) -> NoReturn:
    """Run the command that the words name, and exit.

    Args:
        words: by default those of the command line.
    """
    words = sys.argv[1:] if words is None else list(words)
    log_to_stderr()
    parser = argparse.ArgumentParser("rdd", description="A detector of images that diffusion models have generated, in use.")
    parser.add_argument("--version", action="version", version=f"rdd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{predict,serve}")
    asked = next((word for word in words if not word.startswith("-")), "")
    for name, command in _COMMANDS.items():
        inner = commands.add_parser(name, help=command.line, description=command.line)
        if name == asked:  # the other would be imported for nothing
            importlib.import_module(command.module).add_arguments(inner)
    arguments = parser.parse_args(words)
    with signals_end_the_job(f"rdd {asked}", goes_on=False), errors_exit(goes_on=False):
        code = _run(arguments)
    sys.exit(code)


def _run(arguments: argparse.Namespace) -> int:
    module = importlib.import_module(_COMMANDS[arguments.command].module)
    return module.run(arguments, _predict_on_ray) if arguments.command == "predict" else module.run(arguments)


def _predict_on_ray(arguments: argparse.Namespace, fetch: FetchConfig | None) -> Mapping[str, Any]:
    from rdd.on_ray.predict import predict_many  # and with it Ray

    return predict_many(arguments, fetch)


if __name__ == "__main__":
    main()
