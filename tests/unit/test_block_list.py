"""Lists of what is not fetched."""

import json
from pathlib import Path

import pytest

from rdd.data.block_list import BlockList, read_block_list, read_excluded_ids

HASH = "ab" * 32


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_addresses_hosts_and_hashes_are_told_apart(tmp_path: Path) -> None:
    lines = f"# of 2026\nhttp://a.example/x y.jpg\n\nBad.example.\n{HASH.upper()}\n192.0.2.7\nbücher.example\n"
    blocked = read_block_list(write(tmp_path / "list.txt", lines))
    assert blocked.sha256 == {HASH}
    assert len(blocked.identity) == 64
    for url in (
        "http://a.example/x%20y.jpg",
        "http://bad.example/1.jpg",
        "https://img.BAD.example:8080/1.jpg",
        "http://192.0.2.7/a",
        "http://xn--bcher-kva.example/",
    ):
        assert blocked.holds_url(url), url
    for url in ("http://a.example/other.jpg", "http://notbad.example/", "http://bad.example.org/", "no address"):
        assert not blocked.holds_url(url), url
    assert not BlockList().holds_url("http://bad.example/")


def test_what_is_no_entry_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2 of .* must be an address, a host or a sha256 of 64 digits, got 'two words'"):
        read_block_list(write(tmp_path / "list.txt", "a.example\ntwo words\n"))
    with pytest.raises(ValueError, match=r"fetch\.block_list must name a file that can be read"):
        read_block_list(str(tmp_path / "none.txt"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        read_block_list(str(tmp_path / "binary"))


def test_ids_are_read_from_lines_and_from_the_authors_json(tmp_path: Path) -> None:
    assert read_excluded_ids("") == frozenset()
    assert read_excluded_ids(write(tmp_path / "ids.txt", "1812981011355\n\n  7\n")) == {"1812981011355", "7"}
    assert read_excluded_ids(write(tmp_path / "ids.json", json.dumps(["1812981011355", "7"]))) == {"1812981011355", "7"}
    for text in ('{"a": 1}', "[1, 2]"):
        with pytest.raises(ValueError, match="must be a JSON list of strings"):
            read_excluded_ids(write(tmp_path / "ids.json", text))
    with pytest.raises(ValueError, match="must be a JSON list of ids"):
        read_excluded_ids(write(tmp_path / "ids.json", '["1", '))
