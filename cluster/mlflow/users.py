"""The user that people and jobs log in as: a password that was generated, kept in the file that MLflow's clients read.

``~/.mlflow/credentials`` is that file, for its owner alone. So a job on the head finds user and password by itself, and they
stand in no environment, no command line and no config.
"""

import configparser
import os
import secrets
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SECTION, _USER, _PASSWORD = "mlflow", "mlflow_tracking_username", "mlflow_tracking_password"

_KNOWN_TO_ALL = "password1234"
"""Of the user ``admin`` in versions of MLflow before 3.17."""

_LEAST = 12
"""Characters of a password, MLflow's own rule."""


@dataclass(frozen=True)
class Login:
    """A user and a password."""

    user: str
    password: str


def credentials_file() -> Path:
    """Where MLflow's clients look."""
    return Path("~/.mlflow/credentials").expanduser()


def kept_login() -> Login:
    """The login of the file, which is made with a new password where there is none.

    Raises:
        ValueError: the file can be read by others, is not what MLflow reads, or holds a password that is none.
    """
    file = credentials_file()
    if not file.exists():
        _write(login := _new_login("admin"))
        return login
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{file} can be read by other users; chmod 600 it")
    content = configparser.ConfigParser()
    try:
        content.read(file)
        login = Login(content[_SECTION][_USER], content[_SECTION][_PASSWORD])
    except (configparser.Error, KeyError):
        raise ValueError(
            f"{file} must hold {_USER} and {_PASSWORD} below [{_SECTION}]; move it away to have one made"
        ) from None
    if login.password == _KNOWN_TO_ALL or len(login.password) < _LEAST:
        fault = "the one that MLflow once came with" if login.password == _KNOWN_TO_ALL else f"below {_LEAST} characters"
        raise ValueError(f"the password in {file} must be a secret of {_LEAST} characters or more, and is {fault}")
    return login


def ensure_user(store: str, login: Login) -> str | None:
    """See that the login works, before anything listens: a database without that user gets it.

    Args:
        store: the database.
        login: of the file.

    Returns:
        A warning where the user is known with another password; None where all is well.

    Raises:
        RuntimeError: somebody could log in with the password that everybody knows.
    """
    users = _users(store)
    if users.has_user("admin") and users.authenticate_user("admin", _KNOWN_TO_ALL):
        raise RuntimeError("the user admin has the password that MLflow once came with; end that by --new-password")
    if not users.has_user(login.user):
        users.create_user(login.user, login.password, is_admin=True)
        return None
    if users.authenticate_user(login.user, login.password):
        return None
    return (
        f"the user {login.user} has another password than {credentials_file()}, so jobs can not log in; "
        "write it there, or give a new one by --new-password"
    )


def renew_password(store: str) -> None:
    """Give the user a new password, in the database and in the file; a server that runs takes it at once."""
    content = configparser.ConfigParser()
    content.read(credentials_file())
    login = _new_login(content.get(_SECTION, _USER, fallback="admin"))
    users = _users(store)
    if users.has_user(login.user):
        users.update_user(login.user, password=login.password)
    else:
        users.create_user(login.user, login.password, is_admin=True)
    _write(login)


def _users(store: str) -> Any:
    """MLflow's own table of users, made where there is none."""
    with warnings.catch_warnings(action="ignore"):  # of how its libraries fit together
        from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
    users = SqlAlchemyStore()
    users.init_db(store)
    return users


def _new_login(user: str) -> Login:
    return Login(user, secrets.token_urlsafe(24))  # 192 bits, and no % that the file's reader would take for its own


def _write(login: Login) -> None:
    file = credentials_file()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, f"[{_SECTION}]\n{_USER} = {login.user}\n{_PASSWORD} = {login.password}\n")


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read at any time; whoever reads it sees the old text or the new one."""
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    beside.rename(file)
