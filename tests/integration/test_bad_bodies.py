"""What a server does with bodies that are no images: one sentence each, and the next image is answered as before."""

import io
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psutil
import pytest
from _bad_bodies import MAX_BYTES, Bad, bad_bodies, good_image
from _odd_images import MAX_PIXELS
from _served import ask, served
from _small_detector import detector_of
from PIL import Image

from rdd.clip import ClipEncoder
from rdd.serving.predictor import Predictor
from rdd.serving.web.app import build_app
from rdd.serving.web.backend import LocalBackend
from rdd.serving.web.settings import WebSettings

SETTINGS = WebSettings(max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS, body_timeout_s=1.0)


@pytest.fixture(scope="module")
def predictor(tiny_model: str) -> Predictor:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder)
    detector.encoder, detector.version = encoder, "5" * 64
    return Predictor(detector, max_pixels=MAX_PIXELS)


@pytest.fixture(scope="module")
def url(predictor: Predictor) -> Iterator[str]:
    backend = LocalBackend(predictor, decoders=2, batch_size=4)
    with served(build_app(backend, SETTINGS)) as address:
        yield address
    backend.close()


@contextmanager
def flat_memory(most_bytes: int) -> Iterator[None]:
    """Within it this process, looked at fifty times a second, takes at most so much more memory."""
    process, over = psutil.Process(os.getpid()), threading.Event()
    seen = [process.memory_info().rss]

    def look() -> None:
        while not over.wait(0.02):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert max(seen) - seen[0] < most_bytes


def test_each_bad_body_gets_a_sentence_and_the_next_image_its_answer(url: str) -> None:
    bodies = bad_bodies()
    assert len(bodies) > 50
    before = ask(url, "POST", "/predict", good_image())
    assert before.status == 200
    with flat_memory(80 * 2**20):
        for bad in bodies:
            said = ask(url, bad.method, bad.path, **bad.options())
            assert (said.status, said.reason) == (bad.status, bad.reason), (bad.name, said.body)
            assert ask(url, "POST", "/predict", good_image()).json == before.json, bad.name


def test_a_body_without_end_is_not_read_to_its_end(url: str) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(2**20)

    with flat_memory(80 * 2**20):
        said = ask(url, **_asked(Bad("endless", 413, "too_large", endless)))
    assert (said.status, said.reason) == (413, "too_large")


def _asked(bad: Bad) -> dict:
    return {"method": bad.method, "path": bad.path, **bad.options()}


def test_a_body_that_does_not_come_is_waited_for_so_long_and_no_longer(url: str) -> None:
    host, _, port = urlsplit(url).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nGIF8")
        said = b""
        while piece := connection.recv(65536):
            said += piece
    assert said.startswith(b"HTTP/1.1 408")
    assert b'"slow"' in said
    assert ask(url, "GET", "/healthz").status == 200


def test_who_goes_before_the_answer_leaves_nothing_behind(url: str) -> None:
    host, _, port = urlsplit(url).netloc.partition(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nGIF8")
    until = time.monotonic() + 20
    while b"rdd_images_in_flight 0.0" not in ask(url, "GET", "/metrics").body:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert ask(url, "POST", "/predict", good_image()).status == 200


def test_twelve_thousand_frames_are_one_image_with_a_reason_against_it(url: str) -> None:
    written, frames = io.BytesIO(), [Image.new("L", (4, 4), grey) for grey in (0, 255, 0)]
    frames[0].save(written, "GIF", save_all=True, append_images=frames[1:])
    data = written.getvalue()
    first = data.index(b",", 13)
    many = data[:first] + data[first:-1] * 4000 + b";"
    assert Image.open(io.BytesIO(many)).n_frames == 12_000
    assert len(many) < MAX_BYTES
    said = ask(url, "POST", "/predict", many)
    assert said.status == 200, said.body
    assert "animated" in {reason["code"] for reason in said.json["reasons"]}
