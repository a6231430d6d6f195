"""The server's routes: what they answer, whom, and how much at the same time."""

import asyncio
import base64
import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
from _bad_bodies import good_image
from _load import photographs, send_all
from _served import FORM, Said, ask, form, served
from _small_detector import detector_of

from rdd.clip import ClipEncoder
from rdd.serving.answer import classification
from rdd.serving.predictor import Predictor
from rdd.serving.web import addresses
from rdd.serving.web.app import build_app
from rdd.serving.web.backend import LocalBackend
from rdd.serving.web.gate import Gate
from rdd.serving.web.settings import TOKEN_VARIABLE, WebSettings, read_token

TOKEN = "correct-horse-battery"
SETTINGS = WebSettings()


@pytest.fixture(scope="module")
def predictor(tiny_model: str) -> Predictor:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder)
    detector.encoder, detector.version = encoder, "5" * 64
    return Predictor(detector)


@contextmanager
def server(predictor: Predictor, settings: WebSettings = SETTINGS, gate: Gate | None = None) -> Iterator[str]:
    backend = LocalBackend(predictor, decoders=2, batch_size=4)
    with served(build_app(backend, settings, gate)) as url:
        yield url
    backend.close()


@pytest.fixture(scope="module")
def url(predictor: Predictor) -> Iterator[str]:
    with server(predictor) as address:
        yield address


def test_an_answer_is_the_predictors_whichever_way_the_image_comes(url: str, predictor: Predictor) -> None:
    data = good_image()
    (expected,) = predictor.answers([predictor.preparer(data, "a b é.jpg")])
    plain = ask(url, "POST", "/predict", data, {"X-Image-Name": "a%20b%20%C3%A9.jpg", "Content-Type": "image/jpeg"})
    assert (plain.status, plain.json) == (200, json.loads(json.dumps(expected.to_dict())))
    as_form = form(("image", "a b é.jpg", data), ("caption", None, b"ein Hund"))
    assert ask(url, "POST", "/predict", as_form, FORM).json == plain.json
    labels = ask(url, "POST", "/predict?format=huggingface", data).json
    assert labels == classification(expected)
    assert ask(url, "POST", "/predict", data).json["image"] is None


def test_many_at_once_each_get_their_own_answer(url: str) -> None:
    load = send_all(url, photographs(60, side=64), clients=16)
    assert (load.codes, load.mixed_up, load.failures) == ({200: 60}, 0, [])


def test_the_server_describes_the_detector_and_itself(url: str, predictor: Predictor) -> None:
    said = ask(url, "GET", "/model").json
    assert said["model_version"] == predictor.detector.version
    assert said["encoder"] == json.loads(json.dumps(predictor.detector.encoder_identity))
    assert (said["max_bytes"], said["token_required"], said["urls"], said["captions"]) == (8_000_000, False, False, "ignored")
    assert said["prior"] == 0.8
    assert "JPEG" in said["formats"]
    assert "kept" in said["retention"]
    assert said["retention"] in ask(url, "GET", "/openapi.json").json["info"]["description"]


def test_the_schema_names_the_answer_and_every_error(url: str) -> None:
    schema = ask(url, "GET", "/openapi.json").json
    route = schema["paths"]["/predict"]["post"]
    assert route["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Answer")
    assert {"400", "401", "408", "413", "422", "429", "503"} <= set(route["responses"])
    assert "multipart/form-data" in route["requestBody"]["content"]
    assert schema["components"]["schemas"]["Answer"]["properties"]["verdict"]["description"]


def test_the_documentation_asks_no_other_host(url: str) -> None:
    page = ask(url, "GET", "/docs")
    assert b"https://" not in page.body
    assert "'unsafe-inline'" in page.headers["content-security-policy"]
    assert ask(url, "GET", "/static-offline-docs/swagger-ui-bundle.js").status == 200


def test_every_answer_says_what_a_browser_may_do_with_it(url: str) -> None:
    for said in (ask(url, "GET", "/healthz"), ask(url, "GET", "/nothing"), ask(url, "POST", "/predict", b"")):
        assert said.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in said.headers["content-security-policy"]
        assert "unsafe-inline" not in said.headers["content-security-policy"]
        assert "access-control-allow-origin" not in said.headers


def test_without_the_token_nothing_but_health_is_answered(predictor: Predictor) -> None:
    paths = ["/", "/page.css", "/docs", "/openapi.json", "/model", "/metrics", "/predict", "/nothing", "/static-offline-docs/x"]
    with server(predictor, replace(SETTINGS, token=TOKEN)) as url:
        basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
        wrong = ("", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", f"Digest {TOKEN}", "Basic dW1sw6R1dA==", "Bearer é")
        for path in paths:
            for header in wrong:
                said = ask(url, "GET", path, headers={"Authorization": header.encode("latin-1")})
                assert (said.status, said.reason) == (401, "token"), (path, header)
                assert said.headers["www-authenticate"].startswith("Bearer ")
        assert ask(url, "POST", "/predict", good_image()).status == 401
        assert ask(url, "POST", "/healthz").status == 401
        assert (ask(url, "GET", "/healthz").status, ask(url, "GET", "/readyz").status) == (200, 200)
        for header in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"Basic {basic}"):
            assert ask(url, "POST", "/predict", good_image(), {"Authorization": header}).status == 200
        assert ask(url, "GET", "/model", headers={"Authorization": f"Bearer {TOKEN}"}).json["token_required"] is True


def test_a_page_of_another_site_can_not_send_images_and_the_own_can(url: str) -> None:
    host = url.removeprefix("http://")
    allowed = [{"Origin": f"http://{host}"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}]
    refused = [
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": f"http://{host}", "Sec-Fetch-Site": "cross-site"},
    ]
    assert [ask(url, "POST", "/predict", good_image(), headers).status for headers in allowed] == [200] * 4
    assert [ask(url, "POST", "/predict", good_image(), headers).status for headers in refused] == [403] * 3


class Slow(LocalBackend):
    """Scores when it is let."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__(predictor, decoders=1, batch_size=1)
        self.let = threading.Event()

    async def answer(self, image, caption):
        await asyncio.to_thread(self.let.wait, 30)
        return await super().answer(image, caption)


def test_without_a_token_a_name_that_leads_here_is_not_enough(predictor: Predictor) -> None:
    with server(predictor, replace(SETTINGS, hosts=("127.0.0.1", "localhost", "::1"))) as url:
        port = url.rpartition(":")[2]
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST"):
            assert ask(url, "POST", "/predict", good_image(), {"Host": host}).status == 200
        for host in (f"evil.example:{port}", "", "127.0.0.1.evil.example", "evil.example@127.0.0.1.x"):
            said = ask(url, "POST", "/predict", good_image(), {"Host": host, "Sec-Fetch-Site": "same-origin"})
            assert (said.status, said.reason) == (403, "host")
        assert ask(url, "GET", "/healthz", headers={"Host": "probe.example"}).status == 200


def test_a_body_that_does_not_come_keeps_no_place(predictor: Predictor) -> None:
    settings = replace(SETTINGS, max_in_flight=1, body_timeout_s=0.2, fetch_contact="you@example.org")
    gate = Gate(1, 1.0)
    with server(predictor, settings, gate) as url:
        for kind in ("application/json", "image/png"):
            said = ask(url, "POST", "/predict", None, {"Content-Type": kind, "Content-Length": "10"})
            assert (said.status, said.reason) == (408, "slow")
        assert gate.in_flight == 0
        packed = ask(url, "POST", "/predict", b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"})
        assert (packed.status, packed.reason) == (415, "packed")
        large = ask(url, "POST", "/predict", b"[" * 20_000, {"Content-Type": "application/json"})
        assert (large.status, large.reason) == (413, "too_large")
        assert large.json["error"]["detail"].startswith("a body of JSON must have at most 16384 bytes")


def test_two_explanations_at_a_time_and_verdicts_beside_them(predictor: Predictor) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    class Explaining(LocalBackend):
        async def explain(self, image, caption):
            begun.release()
            await asyncio.to_thread(go_on.wait, 30)
            return {}

    with (
        served(build_app(Explaining(predictor, decoders=1, batch_size=1), SETTINGS)) as url,
        ThreadPoolExecutor(2) as clients,
    ):
        first = [clients.submit(ask, url, "POST", "/predict?explain=true", good_image()) for _ in range(2)]
        assert begun.acquire(timeout=30)
        assert begun.acquire(timeout=30)
        third = ask(url, "POST", "/predict?explain=true", good_image())
        assert (third.status, third.reason) == (429, "busy")
        assert ask(url, "POST", "/predict", good_image()).status == 200
        go_on.set()
        assert [said.result().status for said in first] == [200, 200]


def test_who_comes_when_it_is_full_is_told_when_to_come_again_and_what_was_accepted_is_answered(predictor: Predictor) -> None:
    settings = replace(SETTINGS, max_in_flight=3, retry_after_s=1.5)
    gate, backend = Gate(3, 1.5), Slow(predictor)
    with served(build_app(backend, settings, gate)) as url, ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(ask, url, "POST", "/predict", good_image(seed)) for seed in range(3)]
        while gate.in_flight < 3:
            pass
        full = ask(url, "POST", "/predict", good_image())
        assert (full.status, full.reason, full.headers["retry-after"]) == (429, "busy", "2")
        assert (ask(url, "GET", "/healthz").status, ask(url, "GET", "/readyz").status) == (200, 200)
        gate.close()
        ending = ask(url, "POST", "/predict", good_image())
        assert (ending.status, ending.reason, ending.headers["retry-after"]) == (503, "stopping", "2")
        assert (ask(url, "GET", "/healthz").status, ask(url, "GET", "/readyz").status) == (200, 503)
        backend.let.set()
        answers = [future.result() for future in accepted]
        assert [said.json["sha256"] for said in answers] == [hashlib.sha256(good_image(seed)).hexdigest() for seed in range(3)]
    backend.close()


def test_what_fails_inside_is_an_error_of_the_same_form_and_in_the_log(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(LocalBackend):
        async def answer(self, image, caption):
            raise RuntimeError("out of memory")

    with served(build_app(Failing(predictor, decoders=1, batch_size=1), SETTINGS)) as url:
        said = ask(url, "POST", "/predict", good_image())
        counts = ask(url, "GET", "/metrics").body.decode()
    assert (said.status, said.reason) == (500, "failure")
    assert said.headers["cache-control"] == "no-store"
    assert 'rdd_requests_total{code="500",route="/predict"} 1.0' in counts
    assert "499" not in counts
    assert "out of memory" not in said.body.decode()
    assert "out of memory" in caplog.text


def test_counts_are_there_for_prometheus_and_no_name_is_in_the_log(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), server(predictor) as url:
        for name in ("secret-a.jpg", "secret-b.jpg"):
            ask(url, "POST", "/predict", good_image(), {"X-Image-Name": name})
        ask(url, "POST", "/predict", b"no image", {"X-Image-Name": "secret-c.jpg"})
        ask(url, "GET", "/secret-d.jpg")
        text = ask(url, "GET", "/metrics").body.decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['rdd_requests_total{code="200",route="/predict"}'] == "2.0"
    assert lines['rdd_requests_total{code="422",route="/predict"}'] == "1.0"
    assert lines['rdd_requests_total{code="404",route="other"}'] == "1.0"
    assert lines['rdd_refusals_total{reason="not_an_image"}'] == "1.0"
    assert sum(float(count) for name, count in lines.items() if name.startswith("rdd_verdicts_total")) == 2
    assert lines["rdd_image_bytes_total"] == f"{2.0 * len(good_image())}"
    assert lines["rdd_images_in_flight"] == "0.0"
    assert "POST /predict 200" in caplog.text
    assert "secret" not in caplog.text + text


def asked_by_address(url: str, address: str, **more: str) -> Said:
    body = json.dumps({"url": address, **more}).encode()
    return ask(url, "POST", "/predict", body, {"Content-Type": "application/json; charset=utf-8"})


def test_an_address_is_fetched_where_that_was_asked_for_and_never_from_this_network(
    predictor: Predictor, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, fetch_contact="me@example.org")
    with server(predictor, settings) as fetching:
        private = asked_by_address(fetching, f"{url}/healthz")
        assert (private.status, private.reason) == (422, "not_fetched")
        assert "refused_address" in private.json["error"]["detail"]
        for body in (
            b"[]",
            b"{",
            b"[" * 9000,
            b'{"url": 5}',
            b'{"url": "http://a", "model": 1}',
            b'{"url": "a", "caption": 1}',
        ):
            said = ask(fetching, "POST", "/predict", body, {"Content-Type": "application/json"})
            assert (said.status, said.reason) == (400, "json"), body
    with_loopback = addresses.FetchConfig
    monkeypatch.setattr(addresses, "FetchConfig", lambda **given: with_loopback(**given, allow_loopback=True))
    with server(predictor, settings) as fetching:
        no_image = asked_by_address(fetching, f"{url}/healthz")
        assert (no_image.status, no_image.reason) == (422, "not_fetched")
        picture = asked_by_address(fetching, f"{url}/static-offline-docs/favicon.png", caption="a dog")
        assert (picture.status, picture.json["image"]) == (200, f"{url}/static-offline-docs/favicon.png")


def test_a_token_comes_from_a_file_or_the_environment_and_can_not_be_guessed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token() == ""
    monkeypatch.setenv(TOKEN_VARIABLE, "of-the-environment")
    assert read_token() == "of-the-environment"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(str(tmp_path / "token")) == TOKEN
    (tmp_path / "empty").write_text("\n")
    for name in ("empty", "absent"):
        with pytest.raises(ValueError, match="the token's file must"):
            read_token(str(tmp_path / name))
    for token in ("short", "with a space in it, and long", "mit-Umlaut-ä-und-lang-genug"):
        with pytest.raises(ValueError, match="the token must have at least 16 printable ASCII"):
            WebSettings(token=token)
    assert TOKEN not in repr(WebSettings(token=TOKEN))


@pytest.mark.parametrize(
    "wrong",
    [{"max_bytes": 0}, {"max_pixels": 178_956_971}, {"max_in_flight": 0}, {"retry_after_s": 0}, {"body_timeout_s": 1e9}],
)
def test_a_limit_out_of_range_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WebSettings(**wrong)
