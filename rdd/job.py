"""How a job starts and ends: it parses the command line, prints one line of JSON last, and exits with a code.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 143 ended by SIGTERM, 130 by SIGINT (:mod:`rdd.signals`).
``RDD_TRACEBACK=1`` shows where an error came from.
"""

import contextlib
import itertools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from rdd.config import Config
from rdd.config.help import help_text
from rdd.config.parse import parse_config, settings_of, to_yaml
from rdd.config.secrets import without_password
from rdd.config.stages import Stage, check_registers, require
from rdd.signals import GOES_ON, is_ending, signals_end_the_job

logger = logging.getLogger(__name__)

Summary = Mapping[str, Any]
Work = Callable[[Config], Summary]

Modes = Mapping[str, tuple[Work, str]]
"""By flag, such as ``--verify``, what the job does instead of its work, and a line about it for ``--help``."""

_NO_MODES: Modes = MappingProxyType({})


def run_job(stage: Stage, work: Work, *, description: str | None, track: bool = False, modes: Modes = _NO_MODES) -> NoReturn:
    """Parse the command line, do the work, print its summary and exit.

    Args:
        stage: which; the script is ``jobs/<name>.py``.
        work: takes the config, returns what to report; ``output`` or ``run_dir`` among it. It imports what it needs itself, so
            that ``--help`` and a wrong word are answered at once.
        description: the script's docstring, shown by ``--help``, with examples.
        track: log the job as an MLflow run when it is done; most stages are a run from their beginning.
        modes: what else the job can do, by flag; what that returns is printed in the same way, and never logged to MLflow.
    """
    log_to_stderr()
    with signals_end_the_job(stage.name):
        _run(stage, work, description, track, modes)
    sys.exit(0)


@contextlib.contextmanager
def errors_exit(*, goes_on: bool = True) -> Iterator[None]:
    """Within it an error ends the process with one sentence on standard error and an exit code, as the module describes.

    Args:
        goes_on: whether the same command, started again, goes on where it stopped.
    """
    try:
        yield
    except ValueError as error:
        _fail(2, _sentence(error))
    except (RuntimeError, OSError, MemoryError) as error:
        _fail(1, _sentence(error))
    except KeyboardInterrupt:
        _fail(130, f"interrupted{GOES_ON if goes_on else ''}")
    except Exception as error:
        if type(error).__module__ == "builtins":
            raise  # a bug of ours keeps its traceback
        _fail(1, f"{type(error).__name__}: {_sentence(error)}")  # a library's own: S3 or the cluster says no


def _run(stage: Stage, work: Work, description: str | None, track: bool, modes: Modes) -> None:
    with errors_exit():
        summary = _summary(stage, work, description, track, modes)
    print(_table(summary), file=sys.stderr)
    try:
        print(json.dumps(summary), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would write what is left at its exit, and fail again
        _fail(1, f"the work is done, but standard output can not be written: {error.strerror}")


def _summary(stage: Stage, work: Work, description: str | None, track: bool, modes: Modes) -> Summary:
    """What the command line asks for, done; ``--help`` and ``--print_config`` end here."""
    words = sys.argv[1:]
    if (asked := _sections_after_help(words)) is not None:
        _print_and_exit(help_text(stage, description or "", asked, {flag: line for flag, (_, line) in modes.items()}))
    if not words:
        raise ValueError(f"jobs/{stage.name}.py needs settings; {_first_example(description)}, or see --help")
    flags = [word for word in words if word in modes]
    settings = [word for word in words if word not in modes and word.split("=")[0] != "--print_config"]
    config = parse_config(settings, sections=stage.reads)
    if len(settings) + len(flags) < len(words):
        _print_and_exit(without_password(to_yaml(config)))
    if len(flags) > 1:
        raise ValueError(f"only one of {', '.join(modes)} can be given, got {' '.join(flags)}")
    require(stage, config)
    check_registers(stage, config)
    chosen = modes[flags[0]][0] if flags else work
    summary = {"job": stage.name, **chosen(config)}
    if track and not flags:
        _track(config, stage, summary)
    return summary


def _sections_after_help(words: Sequence[str]) -> list[str] | None:
    """The sections that ``--help`` is asked for, none of them for the short help; None where nobody asks."""
    for place, word in enumerate(words):
        if word in ("--help", "-h"):
            return list(itertools.takewhile(lambda following: not following.startswith("-"), words[place + 1 :]))
    return None


def _print_and_exit(text: str) -> NoReturn:
    print(text, end="", flush=True)
    sys.exit(0)


def _first_example(description: str | None) -> str:
    examples = [line.strip() for line in (description or "").splitlines() if "jobs/" in line]
    return f"for example: {examples[0]}" if examples else "for example --config FILE.yaml"


def _track(config: Config, stage: Stage, summary: Summary) -> None:
    """The finished job as an MLflow run: its settings, and the numbers of its summary."""
    from rdd.tracking.tracker import tracked

    output = str(summary["output"] if "output" in summary else summary["run_dir"])
    with tracked(config.tracking, job=stage.name, output=output) as tracker:
        tracker.params(settings_of(config, stage.reads))
        numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
        tracker.metrics(numbers, step=0)


def log_to_stderr() -> None:
    """Let this package say on standard error what it does."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    package = logging.getLogger("rdd")
    package.handlers = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False


def _sentence(error: BaseException) -> str:
    text = without_password(" ".join(str(error).split()))
    return text or type(error).__name__


def _fail(code: int, message: str) -> NoReturn:
    if is_ending():  # the signal has its own sentence and exit code
        sys.exit(code)
    if os.environ.get("RDD_TRACEBACK") == "1" and sys.exc_info()[0] is not None:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def _table(summary: Summary) -> str:
    rows = [(name.replace("_", " "), _cell(value)) for name, value in summary.items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items()) or "none"
    return str(value)
