"""The MLflow server of a head: who comes in, where it listens, where files go, what a restart keeps, and what is refused."""

import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _mlflow_head import Head, command_lines_with, free_port, listening
from s3_server import S3Server, s3_server

from rdd.config import TrackingConfig
from rdd.tracking.tracker import tracked

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as server:
        yield server


@pytest.fixture(scope="module")
def head(bucket: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head whose server keeps runs in sqlite and files on S3."""
    head = Head(tmp_path_factory.mktemp("home"), free_port(), ("--artefacts", f"{bucket.bucket}/mlflow"))
    said = head.start()
    assert f"MLflow at {head.address}; user and password: {head.home}/.mlflow/credentials" in said
    yield head
    assert head.serve("--stop").returncode == 0
    assert listening(head.port) == set()


def objects(bucket: S3Server) -> dict[str, bytes]:
    import boto3

    client = boto3.client("s3")
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket.bucket[5:]).get("Contents", [])]
    return {key: client.get_object(Bucket=bucket.bucket[5:], Key=key)["Body"].read() for key in keys}


@pytest.mark.slow
def test_only_who_knows_the_password_comes_in(head: Head) -> None:
    login = head.login()
    assert head.status(login) == 200
    assert head.status(None) == 401
    assert head.status(("admin", "password1234")) == 401
    assert head.status((login[0], login[1][:-1])) == 401
    assert head.status(login, Host=f"localhost:{free_port()}") == 200  # the near end of a tunnel
    assert head.status(login, Host="127.0.0.1") == 200
    assert head.status(login, Host=f"mlflow.example:{head.port}") == 403
    assert head.status(login, Host="10.0.0.5:5000") == 403
    assert listening(head.port) == {"127.0.0.1"}
    assert command_lines_with([login[1], (head.home / "mlflow" / "secret_key").read_text()]) == []
    others = [file for file in (head.home / "mlflow").iterdir() if file.stat().st_mode & 0o077]
    assert others == []


@pytest.mark.slow
def test_a_job_finds_user_and_password_and_needs_no_key_of_s3(
    head: Head, bucket: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("HOME", str(head.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", head.address)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "roc.png").write_bytes(b"a figure")
    with monkeypatch.context() as without_keys:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            without_keys.delenv(name)
        with tracked(TrackingConfig(), job="train", output=str(tmp_path / "run")) as tracker:
            tracker.metrics({"val/auroc": 0.9}, step=1)
            tracker.artefacts(str(tmp_path / "figures"), "figures")
        client = MlflowClient(head.address)
        (run,) = client.search_runs([client.get_experiment_by_name("rdd").experiment_id])
    assert (run.info.status, run.data.metrics["val/auroc"]) == ("FINISHED", 0.9)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert [content for key, content in objects(bucket).items() if key.endswith("/figures/roc.png")] == [b"a figure"]


@pytest.mark.slow
def test_a_restart_keeps_runs_and_passwords(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("HOME", str(head.home))
    first = head.login()
    again = head.serve("--detach")
    assert (again.returncode, f"runs already at {head.address}" in again.stderr) == (0, True)
    MlflowClient(head.address).create_experiment("before the restart")

    assert head.serve("--new-password").returncode == 0
    second = head.login()
    assert (head.status(first), head.status(second)) == (401, 200)

    assert head.serve("--stop").returncode == 0
    assert listening(head.port) == set()
    key = (head.home / "mlflow" / "secret_key").read_text()
    assert "warning" not in head.start()
    assert (head.home / "mlflow" / "secret_key").read_text() == key
    assert (head.status(first), head.status(second)) == (401, 200)
    assert MlflowClient(head.address).get_experiment_by_name("before the restart") is not None


REFUSED = {
    "no place of artefacts": (
        [],
        2,
        "--artefacts must name where files of runs go: s3://BUCKET/PREFIX, or an absolute directory",
    ),
    "no bucket's name": (["--artefacts", "s3://A_b/x"], 2, "--artefacts must be s3://BUCKET/PREFIX with the name of a bucket"),
    "no bucket": (
        ["--artefacts", "s3://rdd-nowhere/x"],
        1,
        "s3://rdd-nowhere/x can not be used: An error occurred (NoSuchBucket)",
    ),
    "no directory": (["--artefacts", "ftp://here/x"], 2, "--artefacts must be s3://BUCKET/PREFIX or an absolute directory"),
    "all addresses": (["--host", "0.0.0.0"], 2, "--host must be a loopback or a private address, got 0.0.0.0"),
    "a public address": (["--host", "8.8.8.8"], 2, "--host must be a loopback or a private address, got 8.8.8.8"),
    "another's address": (["--host", "10.255.0.9"], 1, "(Cannot assign requested address)"),
    "no port": (["--port", "70000"], 2, "--port must lie in [1, 65535], got 70000"),
    "a password in the address": (
        ["--store", "postgresql://ann:planted-secret@db/runs"],
        2,
        "db:5432:runs:ann:PASSWORD into ~/.pgpass",
    ),
    "no database": (["--store", "mysql://ann@db/runs"], 2, "--store must be sqlite:///FILE or postgresql://USER@HOST/DATABASE"),
    "a database that is away": (
        ["--store", "postgresql://ann@127.0.0.1:9/runs"],
        1,
        "127.0.0.1:9/runs can not be used: connection",
    ),
}


@pytest.mark.parametrize(("words", "code", "said"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_is_one_sentence(bucket: S3Server, words: list[str], code: int, said: str, tmp_path: Path) -> None:
    usual = [] if said.startswith("--artefacts must name") else ["--artefacts", str(tmp_path / "artefacts")]
    head = Head(tmp_path, free_port(), ())
    done = head.serve(*usual, *words)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "planted-secret" not in done.stderr


def test_a_folder_a_port_or_a_password_that_can_not_be_used(tmp_path: Path) -> None:
    words = ("--artefacts", str(tmp_path / "artefacts"), "--detach")
    (tmp_path / "file").write_text("")
    head = Head(tmp_path, free_port(), words)
    refused = head.serve("--folder", str(tmp_path / "file" / "below"))
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert f"{tmp_path}/file/below can not be written (Not a directory); name another directory" in refused.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", head.port))
        taken.listen()
        refused = head.serve()
    assert refused.stderr == (
        f"error: 127.0.0.1:{head.port} can not be used (Address already in use); choose another --port, "
        "or an address of this machine for --host\n"
    )
    file = tmp_path / ".mlflow" / "credentials"
    file.parent.mkdir(exist_ok=True)
    for password, fault in (("password1234", "the one that MLflow once came with"), ("short", "below 12 characters")):
        file.write_text(f"[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = {password}\n")
        file.chmod(0o600)
        refused = head.serve()
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert fault in refused.stderr
    file.chmod(0o644)
    assert "can be read by other users; chmod 600 it" in head.serve().stderr
    assert listening(head.port) == set()


@pytest.mark.skipif(not os.path.exists("/usr/bin/systemd-analyze"), reason="no systemd-analyze here: apt-get install systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = Path("cluster/mlflow/rdd-mlflow.service").read_text()
    here = unit.replace("/home/ubuntu/venv/bin/python", sys.executable).replace("User=ubuntu", f"User={getpass.getuser()}")
    (tmp_path / "rdd-mlflow.service").write_text(here)
    words = ["systemd-analyze", "verify", str(tmp_path / "rdd-mlflow.service")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "rdd-mlflow" in line]) == (0, [])
