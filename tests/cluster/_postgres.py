"""A real PostgreSQL of a test's own, on a free port of this machine, with a user that has a password."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from _mlflow_head import free_port

USER, DATABASE, PASSWORD = "runs_of_rdd", "runs", "planted-password-of-postgres"


@dataclass(frozen=True)
class Postgres:
    """A database that answers to one password."""

    port: int

    @property
    def uri(self) -> str:
        """Without the password."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    def let_in(self, home: Path) -> None:
        """Write the password where PostgreSQL's clients look for it."""
        file = home / ".pgpass"
        file.write_text(f"127.0.0.1:{self.port}:{DATABASE}:{USER}:{PASSWORD}\n")
        file.chmod(0o600)


def postgres_folder() -> Path | None:
    """Debian's binaries, the newest."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: float(file.parts[-3]))
    return folders[-1].parent if folders else None


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start it; it refuses to run as root, so root lends it Debian's own user."""
    binaries = postgres_folder()
    assert binaries is not None
    as_user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="rdd-pg-", dir="/tmp"))  # a short name: a socket lies in it
    (folder / "password").write_text(PASSWORD)
    if as_user:
        shutil.chown(folder, "postgres")
        shutil.chown(folder / "password", "postgres")
    port = free_port()

    def run(*words: str) -> None:
        subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=60, **as_user)

    init = ["--pgdata", f"{folder}/data", "--username", USER, "--pwfile", f"{folder}/password", "--auth", "scram-sha-256"]
    control = [str(binaries / "pg_ctl"), "--pgdata", f"{folder}/data", "--wait"]
    try:
        run(str(binaries / "initdb"), *init, "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run(*control, "--log", f"{folder}/log", "--options", options, "start")
        try:
            server = Postgres(port)
            _create(server)
            yield server
        finally:
            run(*control, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _create(server: Postgres) -> None:
    import psycopg

    place = {"host": "127.0.0.1", "port": server.port, "user": USER, "password": PASSWORD}
    with psycopg.connect(**place, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"create database {DATABASE}")
