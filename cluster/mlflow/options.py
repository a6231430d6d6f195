"""What the MLflow server of a cluster is started with, and whether each of it is there and usable."""

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from rdd.config.secrets import without_password

_BUCKET = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>.*))?")

_ANSWER_S = 5
"""Seconds for a database or a bucket to answer."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A server that is to be started."""

    folder: Path
    """Absolute directory of what it keeps on this machine, for its own user alone."""
    store: str
    """Database of runs and users: ``sqlite:///FILE`` or ``postgresql://USER@HOST/DATABASE``, without a password."""
    artefacts: str
    """Where files of runs go, through the server: ``s3://BUCKET/PREFIX`` or an absolute directory."""
    host: str
    """Address of this machine to listen on: loopback or private."""
    port: int
    names: tuple[str, ...]
    """Further names, each with or without a port, that people may call it by in their browser."""

    @property
    def address(self) -> str:
        """Where it answers."""
        return f"http://{_in_url(self.host)}:{self.port}"

    def allowed_hosts(self) -> list[str]:
        """Host headers that it takes: of loopback with any port (the near end of a tunnel), of its address, and the names."""
        host = _in_url(self.host)
        own = ["localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*", host, f"{host}:{self.port}"]
        return list(dict.fromkeys([*own, *self.names]))


def check(options: Options) -> None:
    """Refuse a server that could not work; the folder is made.

    Raises:
        ValueError: an option is not what it may be.
        RuntimeError: the folder, the port, the database or the place of the artefacts can not be used.
    """
    _check_host(options.host)
    if not 0 < options.port < 65536:
        raise ValueError(f"--port must lie in [1, 65535], got {options.port}")
    check_store(options.store)
    make_private(options.folder)
    _check_port(options.host, options.port)
    check_database(options.store)
    _check_artefacts(options.artefacts)


def check_store(store: str) -> None:
    """Refuse what is no address of a database, or holds a password.

    Raises:
        ValueError: the sentence.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(store)
    except ArgumentError:
        url = None
    kind = url.get_backend_name() if url else ""
    if url is None or kind not in ("sqlite", "postgresql") or not url.database:
        shown = without_password(store)
        raise ValueError(f"--store must be sqlite:///FILE or postgresql://USER@HOST/DATABASE, got {shown!r}")
    if url.password is not None or "password" in url.query:
        raise ValueError(
            "--store must hold no password, which all users of this machine could read in its list of processes; "
            f"write the line {url.host}:{url.port or 5432}:{url.database}:{url.username}:PASSWORD into ~/.pgpass with mode 0600"
        )


def make_private(folder: Path) -> None:
    """Make a directory that is its owner's alone, and see that it can be written.

    Raises:
        RuntimeError: it can not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        (folder / ".writable").write_bytes(b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise RuntimeError(f"{folder} can not be written ({error.strerror}); name another directory") from error


def check_database(store: str) -> None:
    """Connect once.

    Raises:
        RuntimeError: it does not answer, or does not let this user in.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    options = {} if store.startswith("sqlite") else {"connect_timeout": _ANSWER_S}
    engine = create_engine(store, connect_args=options)
    try:
        engine.connect().close()
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise RuntimeError(f"the database {without_password(store)} can not be used: {without_password(reason)}") from error
    finally:
        engine.dispose()


def _check_host(host: str) -> None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"--host must be an address such as 127.0.0.1 or 10.0.0.5, got {host!r}") from None
    if address.is_unspecified or not (address.is_loopback or address.is_private):
        raise ValueError(
            f"--host must be a loopback or a private address, got {host}: passwords go over it in clear; "
            "listen on 127.0.0.1 and come by a tunnel (ssh -L 5000:127.0.0.1:5000)"
        )


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"{_in_url(host)}:{port} can not be used ({error.strerror})"
            raise RuntimeError(f"{reason}; choose another --port, or an address of this machine for --host") from error


def _check_artefacts(place: str) -> None:
    if not place.startswith("s3://"):
        if "://" in place or not os.path.isabs(place):
            raise ValueError(
                f"--artefacts must be s3://BUCKET/PREFIX or an absolute directory, got {without_password(place)!r}"
            )
        make_private(Path(place))
        return
    if (match := _BUCKET.fullmatch(place)) is None:
        raise ValueError(f"--artefacts must be s3://BUCKET/PREFIX with the name of a bucket, got {place!r}")
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    patience = Config(connect_timeout=_ANSWER_S, read_timeout=_ANSWER_S, retries={"max_attempts": 2})
    try:
        client = boto3.client("s3", config=patience, endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
        client.list_objects_v2(Bucket=match["bucket"], Prefix=match["prefix"] or "", MaxKeys=1)
    except (BotoCoreError, ClientError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"--artefacts {place} can not be used: {reason}; check the bucket and this machine's rights"
        ) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
