"""``rdd serve`` from its start to its end: none lost, none mixed up, full queues, dead replicas, new detectors."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from _bad_bodies import MAX_BYTES, bad_bodies, good_image
from _load import Load, photographs, send_all, sent
from _odd_images import MAX_PIXELS
from _serve_job import ServeJob, serve_job
from _served import Said, ask
from _small_detector import detector_of

from rdd.clip import ClipEncoder
from rdd.serving.predictor import Predictor

pytestmark = pytest.mark.timeout(300)

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
TOKEN = "correct-horse-battery"


def saved_detector(tiny_model: str, folder: Path, offset: float = -1.0) -> str:
    detector = detector_of(ClipEncoder(tiny_model, "random"))
    object.__setattr__(detector.calibration, "offset", offset)
    detector.save(str(folder))
    return str(folder)


@pytest.mark.slow
def test_a_thousand_images_of_32_clients_are_answered_and_those_that_wait_when_it_ends(tiny_model: str, tmp_path: Path) -> None:
    detector = saved_detector(tiny_model, tmp_path / "detector")
    files = photographs(1000, side=96)
    waiting = ["--batch-size", "8", "--batch-wait-s", "3"]  # of 32 clients a batch fills at once, and of the last ones never
    with serve_job(tmp_path, "--detector", detector, *waiting) as job:
        load = send_all(job.url, files, clients=32)
        assert (load.codes, load.mixed_up, load.failures) == ({200: 1000}, 0, [])
        expected = Predictor.load(detector, weights="random")
        (own,) = expected.answers([expected.preparer(files[0], None)])
        assert ask(job.url, "POST", "/predict", files[0]).json["score"] == pytest.approx(own.score, abs=1e-6)
        below = psutil.Process(job.process.pid).children(recursive=True)
        assert {one.laddr.ip for p in (*below, psutil.Process(job.process.pid)) for one in listeners(p)} <= LOOPBACK

        load, refused = asyncio.run(load_at_the_end(job, files[:5]))
        assert (load.codes, load.mixed_up, load.failures) == ({200: 5}, 0, [])
        assert (refused.status, refused.reason) == (503, "stopping")
        assert job.process.wait(120) == 143
    assert [one for one in below if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []


async def load_at_the_end(job: ServeJob, files: list[bytes]) -> tuple[Load, Said]:
    """SIGTERM while these images wait for their batch to fill, and one image more."""
    load = asyncio.create_task(sent(job.url, files, clients=len(files)))
    while (
        f"rdd_images_in_flight {len(files)}.0".encode() not in (await asyncio.to_thread(ask, job.url, "GET", "/metrics")).body
    ):
        assert not load.done()
    job.signal(signal.SIGTERM)
    while (await asyncio.to_thread(ask, job.url, "GET", "/readyz")).status == 200:
        assert not load.done()
    refused = await asyncio.to_thread(ask, job.url, "POST", "/predict", files[0])
    return await load, refused


def listeners(process: psutil.Process) -> list:
    try:
        return [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def job(tiny_model: str, folder: Path) -> Iterator[ServeJob]:
    detector = saved_detector(tiny_model, folder / "detector")
    limits = ["--max-bytes", str(MAX_BYTES), "--max-pixels", str(MAX_PIXELS), "--max-queued", "4", "--retry-after-s", "1.5"]
    words = ["--detector", detector, "--batch-size", "2", "--decoders", "1", *limits]
    with serve_job(folder, *words) as started:
        yield started


@pytest.mark.long
def test_each_bad_body_gets_a_sentence_and_the_next_image_its_answer(job: ServeJob) -> None:
    before, memory = ask(job.url, "POST", "/predict", good_image()), memory_of(job)
    for bad in bad_bodies():
        said = ask(job.url, bad.method, bad.path, **bad.options())
        assert (said.status, said.reason) == (bad.status, bad.reason), (bad.name, said.body)
        assert ask(job.url, "POST", "/predict", good_image()).json == before.json, bad.name
    assert memory_of(job) - memory < 200 * 2**20


def memory_of(job: ServeJob) -> int:
    """Bytes that the process and all below it hold for themselves."""
    everyone = [psutil.Process(job.process.pid), *psutil.Process(job.process.pid).children(recursive=True)]
    return sum(one.memory_info().rss - one.memory_info().shared for one in everyone)


@pytest.mark.long
def test_a_full_queue_behind_the_door_is_429_and_passes(job: ServeJob) -> None:
    load = send_all(job.url, photographs(300), clients=40)
    assert load.codes.keys() == {200, 429}
    assert (load.mixed_up, load.without_wait) == (0, 0)
    after = send_all(job.url, photographs(20), clients=2)
    assert after.codes == {200: 20}


@pytest.mark.long
@pytest.mark.parametrize("deployment", ["Model", "Decode"])
def test_a_replica_that_is_killed_loses_no_image_and_is_back(job: ServeJob, deployment: str) -> None:
    (replica,) = job.replicas(deployment)

    async def load_and_kill() -> Load:
        load = asyncio.create_task(sent(job.url, photographs(400), clients=4))
        await asyncio.sleep(0.5)
        os.kill(replica.pid, signal.SIGKILL)
        return await load

    load = asyncio.run(load_and_kill())
    assert (load.codes, load.mixed_up, load.failures) == ({200: 400}, 0, [])
    (another,) = job.replicas(deployment)
    assert another.pid != replica.pid


@pytest.mark.long
def test_another_detector_is_taken_without_a_failed_image_and_a_torn_one_is_not(
    job: ServeJob, tiny_model: str, folder: Path
) -> None:
    async def load_and_replace() -> Load:
        load = asyncio.create_task(sent(job.url, photographs(400), clients=4))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(saved_detector, tiny_model, folder / "detector", offset=-2.0)
        job.signal(signal.SIGHUP)
        return await load

    before = ask(job.url, "GET", "/model").json["model_version"]
    load = asyncio.run(load_and_replace())
    assert (load.codes, load.mixed_up, load.failures) == ({200: 400}, 0, [])
    job.wait_for("is served")
    after = ask(job.url, "GET", "/model").json["model_version"]
    assert after != before
    assert load.versions.keys() <= {before, after}
    place = folder / "detector" / "detector.json"
    whole = place.read_text()
    place.write_text(whole[:-200])
    job.signal(signal.SIGHUP)
    job.wait_for("can not be taken anew")
    assert ask(job.url, "POST", "/predict", good_image()).json["model_version"] == after
    place.write_text(whole)


@pytest.mark.long
def test_without_the_token_nothing_but_health_is_answered(tiny_model: str, tmp_path: Path) -> None:
    detector = saved_detector(tiny_model, tmp_path / "detector")
    words = ["--detector", detector]
    with serve_job(tmp_path, *words, environment={"RDD_SERVE_TOKEN": TOKEN}) as job:
        for path in ("/", "/model", "/metrics", "/docs", "/predict"):
            assert ask(job.url, "GET", path).status == 401
        assert ask(job.url, "POST", "/predict", good_image()).reason == "token"
        assert ask(job.url, "POST", "/predict", good_image(), {"Authorization": f"Bearer {TOKEN}"}).status == 200
        assert ask(job.url, "GET", "/healthz").status == 200
        assert (ask(job.url, "GET", "/-/routes").status, ask(job.url, "GET", "/-/healthz").status) == (404, 200)
        shown = [" ".join(one.cmdline()) for one in psutil.process_iter() if one.is_running()]
        assert not [line for line in shown if TOKEN in line]
        with socket.create_connection(("127.0.0.1", int(job.url.rpartition(":")[2]))):
            started = time.monotonic()
            job.signal(signal.SIGTERM)  # a connection that says nothing holds nothing up
            assert job.process.wait(120) == 143
            assert time.monotonic() - started < 60
