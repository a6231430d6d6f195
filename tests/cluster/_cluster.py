"""A cluster that was started as cluster/README.md says, on test hosts: head, two workers, and this machine as the laptop."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _project import copy_project
from hosts import LAPTOP, Host, Hosts, environment_of_a_person, hosts, installed_environment
from s3_server import S3Server, s3_server

from rdd import storage
from rdd.embedding.resume import WORK

WORKERS = ("worker-1", "worker-2")
GUIDE = Path("cluster/README.md")
SECRET_KEY = "planted-secret-of-the-bucket"
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
"""A CLIP that costs a millisecond an image."""


@dataclass(frozen=True)
class Answer:
    """What a line in the laptop's shell came to."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that was printed."""
        return self.out + self.err

    @property
    def summary(self) -> dict[str, Any]:
        """The line of JSON with which a job ends."""
        lines = [line for line in self.out.splitlines() if line.startswith('{"job": ')]
        assert lines, self.text[-4000:]
        summary: dict[str, Any] = json.loads(lines[-1])
        return summary


class Laptop:
    """The person's machine: a copy of the project in a home of its own, and a shell.

    Args:
        folder: its home.
        made: the hosts whose addresses the person has filled in.
        s3: the bucket that the person has filled in.
    """

    def __init__(self, folder: Path, made: Hosts, s3: S3Server) -> None:
        self.project = folder / "rdd"
        self._bucket = s3.bucket
        self._env = environment_of_a_person(folder, {})
        _commit_copy(self.project)
        _fill_in(self.project / "cluster" / "on_premises.yaml", made)
        model = folder / "tiny-clip"
        model.mkdir()
        (model / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
        path = self.project / "jobs" / "configs" / "sample_on_cluster.yaml"
        text = path.read_text().replace("s3://your-bucket", s3.bucket)
        path.write_text(text.replace("ViT-B-32-quickgelu", f"local-dir:{model}").replace("openai", "random"))

    def guide(self, name: str) -> str:
        """The lines of a block of cluster/README.md, by the words after ``sh``, with the bucket filled in."""
        found = re.findall(rf"^```sh {name}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
        assert found, f"no block {name} in the guide"
        return "\n".join(found).replace("s3://your-bucket", self._bucket)

    def start(self, line: str) -> subprocess.Popen[str]:
        """A line in a shell of its own, in the project; it runs until it ends."""
        words = ["bash", "-e", "-c", f"{self.guide('each shell')}\n{line}"]
        return subprocess.Popen(
            words,
            cwd=self.project,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def run(self, line: str, *, timeout: float = 240) -> Answer:
        """A line in a shell, to its end."""
        with self.start(line) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"{line}: no end in {timeout:g} s\n{out[-3000:]}\n{err[-3000:]}") from None
        return Answer(process.returncode, out, err)

    def must(self, line: str, *, timeout: float = 240) -> Answer:
        """A line that must succeed."""
        answer = self.run(line, timeout=timeout)
        assert answer.code == 0, f"{line}: exit {answer.code}\n{answer.out[-4000:]}\n{answer.err[-4000:]}"
        return answer


@dataclass(frozen=True)
class Cluster:
    """One that runs."""

    hosts: Hosts
    laptop: Laptop
    s3: S3Server

    @property
    def head(self) -> Host:
        """Where drivers and MLflow run."""
        return self.hosts["head"]

    def up(self) -> None:
        """Start it as the guide says, and wait until both workers are there."""
        self.laptop.must(self.laptop.guide("up"), timeout=400)
        self.wait_for_nodes(1 + len(WORKERS))

    @contextlib.contextmanager
    def tunnel(self) -> Iterator[None]:
        """The tunnel of the guide, through which jobs are submitted."""
        with self.laptop.start(f"exec {self.laptop.guide('tunnel').strip().removesuffix('&')}") as process:
            wait_until(lambda: self.laptop.run("ray job list").code == 0, "the tunnel", seconds=60)
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGTERM)  # ray dashboard, and the ssh that it has started
                process.communicate()

    def on_head(self, command: str) -> str:
        """What a command of the project's environment says on the head."""
        return self.head.says(f". ~/rdd/cluster/node_env.sh && {command}")

    def alive(self) -> dict[str, str]:
        """Of the nodes that Ray takes for alive the ids, by address."""
        said = self.on_head("ray list nodes --filter state=ALIVE --format json")
        return {node["node_ip"]: node["node_id"] for node in json.loads(said[said.index("[") :])}

    def wait_for_nodes(self, count: int, *, seconds: float = 150) -> None:
        """Until Ray has so many."""
        wait_until(lambda: len(self.alive()) == count, f"{count} nodes", seconds=seconds)

    def submit(self, job: str, settings: Mapping[str, Any] | None = None) -> str:
        """Line that submits a job on the sample set."""
        words = [f"submit python jobs/{job}.py --config jobs/configs/sample_on_cluster.yaml"]
        words += [
            f"--{name} '{value if isinstance(value, str) else json.dumps(value)}'" for name, value in (settings or {}).items()
        ]
        return " ".join(words)


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 120) -> None:
    """Wait for something that others bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {seconds:g} s"
        time.sleep(1)


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Make hosts, prepare them as their owner has, and start Ray on them as the guide says; at the end all goes away."""
    with pytest.MonkeyPatch.context() as patch, hosts(["head", *WORKERS]) as made, s3_server(patch, LAPTOP) as s3:
        for host in made.all:
            _prepare(host, s3)
        home = made.folder / "laptop"
        home.mkdir()
        laptop = Laptop(home, made, s3)
        laptop.must(laptop.guide("token"))
        running = Cluster(made, laptop, s3)
        running.up()
        with running.tunnel():
            yield running


def _prepare(host: Host, s3: S3Server) -> None:
    """What a host's owner has done: the packages installed, no index in reach, keys of the bucket in a file."""
    installed_environment(host.home / "venv")
    pip = "[global]\nno-index = true\ndisable-pip-version-check = true\n[install]\nno-build-isolation = false\n"
    keys = f"[default]\naws_access_key_id = planted-id\naws_secret_access_key = {SECRET_KEY}\n"
    for place, text in (
        (".config/pip/pip.conf", pip),
        (".aws/credentials", keys),
        (".aws/config", f"[default]\nregion = us-east-1\nendpoint_url = {s3.address}\n"),
    ):
        path = host.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)


def _fill_in(path: Path, made: Hosts) -> None:
    head, *workers = (host.address for host in made.all)
    text = path.read_text()
    for of_the_guide, ours in (
        ("192.0.2.10", head),
        ("[192.0.2.11, 192.0.2.12]", f"[{', '.join(workers)}]"),
        ("ssh_user: ubuntu", "ssh_user: root"),
        ("~/.ssh/id_ed25519", str(made.key)),
    ):
        assert of_the_guide in text
        text = text.replace(of_the_guide, ours)
    path.write_text(text)


def _commit_copy(folder: Path) -> None:
    """A copy of the project with a commit, which a submitted job names."""
    copy_project(folder)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "A copy"]):
        subprocess.run([*git, *words], cwd=folder, check=True)


def commits(output: str) -> list[str]:
    """Commits of an embedding so far."""
    folder = f"{output}/{WORK}/checkpoint"
    return [file.path for file in storage.list_files(folder, suffix=".parquet")] if storage.exists(folder) else []


def rows(output: str) -> list[dict]:
    """What an embedding has written, by key, but for the place of its records; every row once."""
    files = [file.path for file in storage.list_files(f"{output}/data", suffix=".parquet")]
    found = [row for file in files for row in storage.read_table(file, way_out="").to_pylist()]
    assert len({row["key"] for row in found}) == len(found)
    return sorted(({**row, "source": None} for row in found), key=lambda row: row["key"])
