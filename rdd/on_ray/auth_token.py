"""The token that clients of a local Ray must show, which nobody but this user may read."""

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path


def keep_token_private() -> None:
    """Make Ray's token file before Ray does, or take the rights of others from the one there is.

    Ray 2.60 writes ``~/.ray/auth_token`` when it first starts, readable by everyone on the machine. Untouched is what the user
    has set up: a token or its path in the environment, another mode of authentication, a link, another user's file.

    Raises:
        RuntimeError: a directory is in its place.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    place = Path.home() / ".ray" / "auth_token"
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.path.lexists(place):
        _write_token(place)
    if place.is_dir():
        raise RuntimeError(f"{place} must be the file of Ray's token and is a directory; move it away")
    found = place.lstat()
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
        place.chmod(0o600)


def _write_token(place: Path) -> None:
    with tempfile.NamedTemporaryFile("w", dir=place.parent) as file:  # made with mode 0600
        file.write(secrets.token_hex(32))  # as Ray's own
        file.flush()
        with contextlib.suppress(FileExistsError):  # another job has been faster, and uses its own
            os.link(file.name, place)  # at once and whole: that job would read half a token
