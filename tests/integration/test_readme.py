"""Every line of the README: checked as typed, and in `make test-long` run from top to bottom in a copy of the project.

A block ```sh holds lines of a shell, ```sh aws those that need an account, ```python a program.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from _project import copy_project

README = Path("README.md").read_text()
GUIDE = Path("cluster/README.md").read_text()  # its lines are run on test hosts: tests/cluster/test_hosts.py
BLOCKS = re.findall(r"^```(sh aws|sh|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind.startswith("sh") for line in block.splitlines()]
TYPED = [*LINES, *GUIDE.splitlines()]
JOBS = [line.removeprefix("submit ") for line in TYPED if re.match("(submit )?python jobs/", line)]
TARGETS = sorted({line.split()[1] for line in LINES if line.startswith("make ")} | set(re.findall(r"`make ([a-z-]+)", README)))


@pytest.mark.parametrize("line", JOBS)
def test_a_jobs_line_is_a_valid_request(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    if "--help" not in words:
        written = [word for word in words if word.endswith("best.yaml")]  # by the line before it
        words = [word for word in words if word not in written]
        if written:
            words.remove("--config")
        words.append("--print_config")
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_there(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_link_and_file_is_there() -> None:
    headings = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", README, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert Path(target).exists(), target
    for path in re.findall(r"`((?:jobs|tests|rdd|cluster)/[\w/]+\.\w+)`", README):
        assert Path(path).exists(), path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project as a clone has it, with this environment."""
    copy_project(tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):  # the environment is there, make need not bring it up to date
        os.utime(tmp_path / name, (0, 0))
    return tmp_path


def own_images(folder: Path) -> None:
    """What a new user brings: thirty images, of the sample set."""
    import pyarrow.parquet as pq

    real = pq.read_table(folder / "data" / "sample" / "real_images").to_pylist()[:15]
    records = pq.read_table(folder / "data" / "sample" / "records").to_pylist()[:15]
    for number in range(15):
        for place, data in (("real", real[number]["bytes"]), ("fake/some-model", records[number]["image_gen0"]["bytes"])):
            path = folder / "my_images" / place / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_line_runs_from_top_to_bottom(copy: Path, request: pytest.FixtureRequest) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")}
    environment["PATH"] = environment["PATH"].replace(str(Path(sys.prefix) / "bin"), "")  # a new shell has not activated it
    activate = ". .venv/bin/activate\n"
    server = ExitStack()  # is closed by the first block that asks nothing of it
    request.addfinalizer(server.close)
    for kind, block in BLOCKS:
        if kind == "sh aws":
            continue
        if "curl" not in block:
            server.close()
        if "my_images" in block and not (copy / "my_images").exists():
            own_images(copy)
        if "make ui" in block:
            serve(copy, environment)
            continue
        if "rdd serve" in block:
            server.enter_context(answering(f"{activate}exec {block}", copy, environment))
            continue
        script = block if "make " in block or block == activate else activate + block
        words = ["bash", "-euc", script]
        if kind == "python":
            words = ["bash", "-euc", f"{activate}exec python - <<'END'\n{block}END"]
        done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=1200)
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@contextmanager
def answering(script: str, copy: Path, environment: dict[str, str]) -> Iterator[None]:
    """The server of images, from when it is ready; its port is that of the README."""
    with open(copy / "serve.log", "w") as log:
        process = subprocess.Popen(["bash", "-euc", script], cwd=copy, env=environment, stdout=log, stderr=log)
    try:
        wait_for("http://127.0.0.1:8000/readyz", process, copy / "serve.log")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


def serve(copy: Path, environment: dict[str, str]) -> None:
    """`make ui` on a free port: it says addresses, and something answers there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["make", "--silent", "ui", f"PORT={port}"]
    with open(copy / "ui.log", "w") as log:
        process = subprocess.Popen(words, cwd=copy, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, copy / "ui.log")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
    said = (copy / "ui.log").read_text()
    for title in ("the rows of ablations", "the runs of ablations", "the trials of sweeps", "single training runs"):
        assert f"{title}: http://127.0.0.1:{port}/#/experiments/" in said
