"""``rdd serve --in-process``: one process without Ray that takes new detectors and answers what it has accepted."""

import hashlib
import signal
import socket
import time
from pathlib import Path

import pytest
from _bad_bodies import good_image
from _load import photographs, send_all
from _serve_job import serve_job
from _served import ask
from _small_detector import detector_of

from rdd.clip import ClipEncoder

pytestmark = pytest.mark.timeout(120)


def test_it_takes_another_detector_and_ends_when_what_it_accepted_is_answered(tiny_model: str, tmp_path: Path) -> None:
    detector = detector_of(ClipEncoder(tiny_model, "random"))
    folder = tmp_path / "detector"
    detector.save(str(folder))
    data = good_image()
    with serve_job(tmp_path, "--in-process", "--detector", str(folder)) as job:
        assert send_all(job.url, photographs(40, side=64), clients=8).codes == {200: 40}
        assert ask(job.url, "GET", "/model").json["model_version"] == detector.version
        object.__setattr__(detector.calibration, "offset", -2.0)
        detector.save(str(folder))
        job.signal(signal.SIGHUP)
        job.wait_for(f"detector {detector.version[:12]} is served")
        assert ask(job.url, "POST", "/predict", data).json["model_version"] == detector.version
        (folder / "detector.json").write_text("{")
        job.signal(signal.SIGHUP)
        job.wait_for("can not be taken anew")
        with socket.create_connection(("127.0.0.1", int(job.url.rpartition(":")[2])), timeout=60) as slow:
            head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
            slow.sendall(head.encode() + data[:100])
            until_in_flight(job.url)
            job.signal(signal.SIGTERM)
            slow.sendall(data[100:])
            said = b"".join(iter(lambda: slow.recv(65536), b""))
        assert said.startswith(b"HTTP/1.1 200")
        assert hashlib.sha256(data).hexdigest().encode() in said
        assert job.process.wait(60) == 143


def until_in_flight(url: str) -> None:
    while b"rdd_images_in_flight 1.0" not in ask(url, "GET", "/metrics").body:
        time.sleep(0.02)
