"""Who may read the token of a local Ray."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rdd.on_ray.auth_token import keep_token_private


@pytest.fixture
def token(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_token_is_its_users_alone(token: Path) -> None:
    mask = os.umask(0)
    try:
        keep_token_private()
    finally:
        os.umask(mask)
    assert (mode(token), mode(token.parent)) == (0o600, 0o700)
    assert len(bytes.fromhex(token.read_text())) == 32
    assert list(token.parent.iterdir()) == [token]


def test_a_token_that_is_there_stays_and_others_lose_their_rights(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("as-it-was")
    token.chmod(0o644)
    keep_token_private()
    assert mode(token) == 0o600
    assert token.read_text() == "as-it-was"


def test_jobs_that_start_at_once_agree_on_one_token(token: Path, monkeypatch) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: False)  # as each of them finds it
    token.parent.mkdir()
    with ThreadPoolExecutor(8) as pool:
        seen = set(pool.map(lambda _: (keep_token_private(), token.read_text())[1], range(8)))
    assert len(seen) == 1
    assert len(seen.pop()) == 64


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_AUTH_TOKEN", "own"), ("RAY_AUTH_TOKEN_PATH", "/somewhere"), ("RAY_AUTH_MODE", "disabled")]
)
def test_what_the_user_has_set_up_is_left_alone(token: Path, monkeypatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not token.parent.exists()


def test_a_link_is_left_alone(token: Path, tmp_path: Path) -> None:
    token.parent.mkdir()
    token.symlink_to(tmp_path / "shared")
    keep_token_private()
    assert not (tmp_path / "shared").exists()
    (tmp_path / "shared").write_text("of the team")
    (tmp_path / "shared").chmod(0o640)
    keep_token_private()
    assert mode(tmp_path / "shared") == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_left_alone(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("of another user")
    token.chmod(0o644)
    os.chown(token, 65534, 65534)
    keep_token_private()
    assert mode(token) == 0o644


def test_a_directory_in_place_of_the_token_is_said(token: Path) -> None:
    token.mkdir(parents=True)
    with pytest.raises(RuntimeError, match=r"auth_token must be the file of Ray's token and is a directory; move it away"):
        keep_token_private()
