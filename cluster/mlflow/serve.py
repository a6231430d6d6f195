"""The MLflow server of a cluster's head: a password, artefacts through the server, on loopback or a private address.

    python cluster/mlflow/serve.py --artefacts s3://BUCKET/mlflow --detach
    python cluster/mlflow/serve.py --stop

The first start makes a user with a password of its own, in ~/.mlflow/credentials, where jobs of this machine's user find it.
A restart keeps runs, users and passwords. Exit codes: 0 done, 1 something can not be used, 2 the request was wrong.
"""

import argparse
import os
import sys
from pathlib import Path

from options import Options, check, check_database, check_store, make_private
from server import running, serve, start, stop
from users import credentials_file, ensure_user, kept_login, renew_password

_WARNING = "warning: "


def main() -> int:
    """Do what the command line asks for; the exit code."""
    arguments = _parser().parse_args()
    folder = arguments.folder.expanduser().absolute()
    store = arguments.store or f"sqlite:///{folder}/mlflow.db"
    try:
        if arguments.stop:
            _say("the MLflow server has ended" if stop(folder) else f"no MLflow server works in {folder}")
        elif arguments.new_password:
            _renew(folder, store)
        else:
            _serve(arguments, folder, store)
    except ValueError as error:
        return _fail(2, error)
    except (RuntimeError, OSError) as error:
        return _fail(1, error)
    return 0


def _serve(arguments: argparse.Namespace, folder: Path, store: str) -> None:
    if not arguments.artefacts:
        raise ValueError("--artefacts must name where files of runs go: s3://BUCKET/PREFIX, or an absolute directory")
    if (note := running(folder)) is not None:
        _say(f"MLflow runs already at {note.address}; to start it with other options, end it first: --stop")
        return
    options = Options(
        folder=folder,
        store=store,
        artefacts=arguments.artefacts.rstrip("/"),
        host=arguments.host,
        port=arguments.port,
        names=tuple(arguments.name),
    )
    if arguments.detach:
        make_private(folder)
        said = start([sys.executable, *(word for word in sys.argv if word != "--detach")], options)
        for line in said:
            if line.startswith(_WARNING):
                _say(line)
        _say_ready(options)
        return
    os.umask(0o077)
    check(options)
    login = kept_login()
    if (warning := ensure_user(store, login)) is not None:
        _say(_WARNING + warning)
    _say_ready(options)
    serve(options, login.user)


def _renew(folder: Path, store: str) -> None:
    check_store(store)
    make_private(folder)
    check_database(store)
    renew_password(store)
    _say(f"the new password is in {credentials_file()}; jobs take it at once")


def _say_ready(options: Options) -> None:
    _say(f"MLflow at {options.address}; user and password: {credentials_file()}")
    _say(f"jobs find it where ray start has MLFLOW_TRACKING_URI={options.address} in its environment")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(code: int, error: Exception) -> int:
    _say(f"error: {' '.join(str(error).split())}")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artefacts", default="", help="s3://BUCKET/PREFIX or an absolute directory, for files of runs")
    parser.add_argument("--folder", type=Path, default=Path("~/mlflow"), help="what it keeps on this machine (%(default)s)")
    parser.add_argument(
        "--store",
        default="",
        help="sqlite:///FILE (in the folder by default) or postgresql://USER@HOST/DATABASE, see ~/.pgpass",
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback or private address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=5000, help="(%(default)s)")
    parser.add_argument(
        "--name", action="append", default=[], help="one more name that browsers may call it by, with its port; may be repeated"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--detach", action="store_true", help="serve in the background, and return once it answers")
    mode.add_argument("--stop", action="store_true", help="end the server of the folder")
    mode.add_argument("--new-password", action="store_true", help="give the user a new password, also while it runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
