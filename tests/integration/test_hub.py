"""D3's own Parquet from a hub: a local server plays its endpoints for the real huggingface_hub, in a process of its own."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

FILES = {
    "data/train-00000-of-00002.parquet": b"first" * 2_400_000,
    "data/train-00001-of-00002.parquet": b"second" * 40_000,
    "data/validation-00000-of-00001.parquet": b"third" * 1000,
    "README.md": b"a data set",
}
COMMIT = "0" * 40

_BRING = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from rdd.data.hub import bring_records
try:
    print("brought", bring_records("elsaEU/ELSA_D3", sys.argv[1], sys.argv[2]))
except (ValueError, RuntimeError) as error:
    print(f"{type(error).__name__}: {error}")
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The endpoints that listing and downloading a data set take."""

    asked: list[str]
    cut: dict[str, int]
    """By name, after how many bytes the connection breaks, once."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/datasets/elsaEU/ELSA_D3/tree/main"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": digest(data)} for name, data in FILES.items()]
            self._send(json.dumps(tree).encode(), {"Content-Type": "application/json"}, body=body)
        elif path.startswith("/api/datasets/elsaEU/ELSA_D3"):
            info = {"id": "elsaEU/ELSA_D3", "sha": COMMIT, "siblings": []}
            self._send(json.dumps(info).encode(), {"Content-Type": "application/json"}, body=body)
        elif path.startswith("/datasets/elsaEU/ELSA_D3/resolve/"):
            name = path.split("/", 6)[6]
            if body:
                self.asked.append(f"{name} from {self.headers.get('Range', 'the beginning')}")
            headers = {"ETag": f'"{digest(FILES[name])}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            self._send(FILES[name], headers, body=body, cut=self.cut.pop(name, None) if body else None)
        elif path == "/":
            self._send(b"hub", {}, body=body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, data: bytes, headers: dict[str, str], *, body: bool, cut: int | None = None) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if body:
            self.wfile.write(data[start:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    handler = type("OneHub", (Hub,), {"asked": [], "cut": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield handler
    server.shutdown()
    server.server_close()


def bring(address: str, path: str, tmp_path: Path, *, pattern: str = "data/train-*") -> str:
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    words = [sys.executable, "-c", _BRING, pattern, path]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".hub" not in path.parts
    }


def test_files_are_brought_once_and_whole(hub, tmp_path: Path) -> None:
    target = tmp_path / "records"
    assert bring(hub.address, str(target), tmp_path) == "brought 2"
    assert files_in(target) == {name: data for name, data in FILES.items() if "train" in name}
    assert bring(hub.address, str(target), tmp_path) == "brought 0"
    assert len(hub.asked) == 2
    (target / "data" / "train-00001-of-00002.parquet").write_bytes(b"torn")
    assert bring(hub.address, str(target), tmp_path) == "brought 1"
    assert files_in(target) == {name: data for name, data in FILES.items() if "train" in name}


def test_a_download_that_breaks_goes_on_where_it_broke(hub, tmp_path: Path) -> None:
    name = "data/train-00000-of-00002.parquet"
    hub.cut[name] = 11_000_000  # of 12; huggingface_hub keeps whole pieces of 10 MiB
    bring(hub.address, str(tmp_path / "records"), tmp_path)
    bring(hub.address, str(tmp_path / "records"), tmp_path)
    assert files_in(tmp_path / "records")[name] == FILES[name]
    assert any(asked.startswith(f"{name} from bytes=10485760") for asked in hub.asked)


def test_without_a_hub_one_sentence_says_how_to_bring_the_files(tmp_path: Path) -> None:
    said = bring("http://127.0.0.1:1", "s3://bucket/d3", tmp_path)
    assert said.startswith("RuntimeError: no hub in reach for elsaEU/ELSA_D3 at http://127.0.0.1:1 (")
    assert "bring its Parquet into s3://bucket/d3 by other means and leave fetch.hub empty" in said
    assert "hf download elsaEU/ELSA_D3 --repo-type dataset" in said


def test_no_such_files_or_data_set_is_a_wrong_request(hub, tmp_path: Path) -> None:
    said = bring(hub.address, str(tmp_path / "records"), tmp_path, pattern="data/test-*")
    assert (
        said
        == "ValueError: fetch.hub_files must name files of elsaEU/ELSA_D3, got data/test-*, which none of its files is like"
    )
    for path in ("data/*", "list.txt"):
        said = bring(hub.address, str(tmp_path / path), tmp_path)
        assert said == f"ValueError: records.path must be a directory, into which fetch.hub brings files, got {tmp_path / path}"
