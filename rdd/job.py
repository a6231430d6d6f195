"""How a job starts and ends: words in, exit code out, one line of JSON last.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong. ``RDD_TRACEBACK=1`` shows where an error came from.
"""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from rdd.config import Config
from rdd.config.parse import leaf_of, leaves, parse_config

logger = logging.getLogger(__name__)

Summary = Mapping[str, Any]


def run_job(
    name: str,
    work: Callable[[Config], Summary],
    *,
    sections: Sequence[str],
    needs: str,
    description: str | None,
    track: bool = False,
) -> NoReturn:
    """Parse the command line, do the work, print its summary and exit.

    Args:
        name: the stage; the script is ``jobs/<name>.py``.
        work: takes the config, returns what to report; ``output`` or ``run_dir`` among it.
        sections: sections of the config that the stage reads.
        needs: what to say when no argument is given, as the end of "jobs/<name>.py needs ...".
        description: the script's docstring, shown by ``--help``.
        track: log the job as an MLflow run when it is done; jobs that train log their own, epoch by epoch.
    """
    _log_to_stderr()
    argv = sys.argv[1:]
    if not argv:
        _fail(2, f"jobs/{name}.py needs {needs}")
    try:
        config = parse_config(argv, prog=f"jobs/{name}.py", description=description, sections=sections)
        summary = {"job": name, **work(config)}
        if track:
            _track(config, name, sections, summary)
    except ValueError as error:
        _fail(2, _sentence(error))
    except (RuntimeError, OSError, MemoryError) as error:
        _fail(1, _sentence(error))
    except KeyboardInterrupt:
        _fail(130, "interrupted; the same command goes on where it stopped")
    except Exception as error:
        if type(error).__module__ == "builtins":
            raise  # a bug of ours keeps its traceback
        _fail(1, f"{type(error).__name__}: {_sentence(error)}")  # a library's own: S3 or the cluster says no
    print(_table(summary), file=sys.stderr)
    print(json.dumps(summary), flush=True)
    sys.exit(0)


def _track(config: Config, name: str, sections: Sequence[str], summary: Summary) -> None:
    """The finished job as an MLflow run: its settings, and the numbers of its summary."""
    from rdd.tracking.tracker import tracked  # MLflow takes seconds to import

    with tracked(
        config.tracking, job=name, output=str(summary["output"] if "output" in summary else summary["run_dir"])
    ) as tracker:
        tracker.params({leaf: leaf_of(config, leaf) for leaf in leaves() if leaf.split(".")[0] in sections})
        numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
        tracker.metrics(numbers, step=0)


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    package = logging.getLogger("rdd")
    package.handlers = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _fail(code: int, message: str) -> NoReturn:
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
