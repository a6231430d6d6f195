"""What a person does on the server's page, in a real browser."""

import base64
import csv
import io
import json
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from _served import served
from _signed_image import SIGNER, signed
from _small_detector import detector_of
from PIL import Image

from rdd.clip import ClipEncoder
from rdd.serving.answer import NOTICE
from rdd.serving.predictor import Predictor
from rdd.serving.rows import ROWS
from rdd.serving.web.app import build_app
from rdd.serving.web.backend import LocalBackend
from rdd.serving.web.description import RETENTION
from rdd.serving.web.settings import WebSettings

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
TOKEN = "a-token-of-this-test"
MARKUP = "<img src=x onerror=document.title=1>.png"
FORMULA = '=cmd|"x"!A1, b.png'
VERDICTS = {"likely_generated": "Likely generated", "uncertain": "Uncertain", "likely_real": "Likely real"}

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not os.path.exists(CHROMIUM), reason="no Chromium here: apt-get install chromium"),
]


@contextmanager
def answering(predictor: Predictor, settings: WebSettings) -> Iterator[str]:
    """The address of a server, with a slash at the end."""
    backend = LocalBackend(predictor, decoders=2, batch_size=8)
    try:
        with served(build_app(backend, settings)) as address:
            yield f"{address}/"
    finally:
        backend.close()


@pytest.fixture(scope="module")
def predictor(tiny_model: str) -> Predictor:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder)
    detector.metrics = {"test": {"true_positive_rate": 0.9, "true_positive_rate_interval": [0.8, 1.0]}}
    detector.use(encoder)
    detector.version = "5" * 64
    return Predictor(detector)


@pytest.fixture(scope="module")
def address(predictor: Predictor) -> Iterator[str]:
    with answering(predictor, WebSettings(max_bytes=150_000)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, address: str) -> Iterator:
    """Opens the page; afterwards no request has gone elsewhere and no script has failed."""
    asked, failed, contexts, addresses = [], [], [], [address]

    def opened(elsewhere: str = "", **how):
        addresses.append(elsewhere or address)
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"], **how)
        contexts.append(context)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: failed.append(str(error.error)))
        page = context.new_page()
        page.on("filechooser", lambda chooser: None)  # from now on, or a press right after the wish would open a window
        page.goto(addresses[-1])
        page.locator("#choose:enabled").wait_for()
        return page

    yield opened
    for context in contexts:
        context.close()
    own = ("data:", *addresses, *(f"blob:{one}" for one in addresses))
    assert [url for url in asked if not url.startswith(own)] == []
    assert failed == []


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("images")
    (folder / "below").mkdir()
    names = {"plain": "a cat.png", "markup": MARKUP, "formula": FORMULA, "small": "below/small.png"}
    places = {key: folder / name for key, name in names.items()}
    for seed, (key, place) in enumerate(places.items()):
        place.write_bytes(picture(seed, "PNG", (12, 12) if key == "small" else (60, 50)))
    places |= {"signed": folder / "signed.jpg", "broken": folder / "broken.jpg", "large": folder / "large.png"}
    places["signed"].write_bytes(signed(picture(7, "JPEG", (60, 50))))
    places["broken"].write_text("no image")
    places["large"].write_bytes(picture(8, "PNG", (300, 300)))
    return SimpleNamespace(folder=folder, **places)


def picture(seed: int, kind: str, size: tuple[int, int]) -> bytes:
    written = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()


def answer_of(address: str, place: Path) -> dict:
    """What the server says to a program."""
    request = urllib.request.Request(f"{address}predict", place.read_bytes(), {"Content-Type": "image/png"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def serious(page) -> list[str]:
    """What axe-core finds that shuts people out."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    nodes = [(one["id"], node["html"]) for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]]
    return [f"{name}: {html}" for name, html in nodes]


def test_one_image_by_keyboard_alone(visit, address: str, files: SimpleNamespace) -> None:
    page, expected = visit(), answer_of(address, files.plain)
    assert page.get_by_text(NOTICE).is_visible()
    assert page.get_by_text(RETENTION).is_visible()
    assert page.get_by_text(expected["model_version"]).is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(files.plain)
    page.locator(".verdict").wait_for()
    assert page.locator(".verdict .big").inner_text() == VERDICTS[expected["verdict"]]
    shown = page.locator("#details").inner_text()
    assert "a cat.png" in shown
    assert page.locator(".probability").inner_text().startswith(f"{expected['probability'] * 100:.1f}"[:4])
    assert "where 80\u00a0% of all images are generated" in shown
    assert "90\u00a0% (95 % interval 80\u00a0% to 100\u00a0%)" in shown
    assert "not measured" in shown
    drawn = page.locator("#details svg.scale").get_attribute("aria-label")
    assert f"This image has a score of {expected['score']:.3f}" in drawn
    assert VERDICTS[expected["verdict"]] in page.get_by_role("status").inner_text()
    assert page.locator(".preview img").evaluate("image => image.complete && image.naturalWidth") == 60
    assert serious(page) == []
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Copy as JSON":
            break
    page.keyboard.press("Enter")
    page.get_by_text("Copied as JSON.").wait_for()
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == expected | {"image": "a cat.png"}


def test_images_are_dropped_and_pasted(visit, files: SimpleNamespace) -> None:
    page = visit()
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(files.folder / "below")], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 200, "y": 500, "data": data})
    page.locator(".verdict").wait_for()
    assert page.locator("#details-title").inner_text() == "below/small.png"
    assert "12 x 12 pixels had to be enlarged" in page.locator(".reasons").inner_text()
    page.evaluate(
        """async base64 => {
          const bytes = Uint8Array.from(atob(base64), one => one.charCodeAt(0))
          await navigator.clipboard.write([new ClipboardItem({ 'image/png': new Blob([bytes], { type: 'image/png' }) })])
        }""",
        base64.b64encode(files.plain.read_bytes()).decode(),
    )
    page.keyboard.press("Control+V")
    page.get_by_role("status").filter(has_text="pasted 1.png: ").wait_for()
    assert page.locator("#rows tr").count() == 2
    page.evaluate("navigator.clipboard.writeText('a text')")
    page.keyboard.press("Control+V")
    page.get_by_text("The clipboard holds no image").wait_for()


def test_many_images_make_a_table_and_a_csv(visit, address: str, files: SimpleNamespace) -> None:
    page = visit()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    some = [files.plain, files.markup, files.formula, files.small, files.signed, files.broken, files.large]
    page.set_input_files("#files", some)
    page.get_by_role("status").filter(has_text="7 images: ").wait_for()
    assert "2 without an answer" in page.get_by_role("status").inner_text()
    assert sum(url.endswith("/predict") for url in asked) == 6  # the large one was not sent
    rows = {row.locator("th").inner_text(): row.inner_text() for row in page.locator("#rows tr").all()}
    assert list(rows) == [place.name for place in some]
    assert "It was not sent: its 27" in rows["large.png"]
    assert "than the 150 kB that the server takes" in rows["large.png"]
    assert "There is no answer to this file: " in rows["broken.jpg"]
    assert f"Valid, {SIGNER}" in rows["signed.jpg"]
    assert "small" in rows["small.png"]
    assert page.get_by_role("button", name="Try the failed ones again").is_hidden()  # it would be in vain
    assert serious(page) == []
    page.get_by_role("button", name="Score").click()
    scores = [text for text in page.locator("#rows td:nth-child(4)").all_inner_texts() if text]
    assert scores == sorted(scores, key=float, reverse=True)
    placed = [row.inner_text() for row in page.locator("#rows th").all()].index("a cat.png") + 1
    assert page.get_by_text(f"{placed} of 7", exact=True).is_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV").click()
    lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8-sig"), newline="")))
    assert list(lines[0]) == ROWS.names  # those of rdd predict
    by_name = {line["image"]: line for line in lines}
    assert set(by_name) == {"'" + FORMULA} | {place.name for place in some if place != files.formula}
    expected = answer_of(address, files.plain)
    for field in ("sha256", "verdict", "model_version"):
        assert by_name["a cat.png"][field] == expected[field]
    for field in ("score", "probability", "prior", "threshold"):
        assert float(by_name["a cat.png"][field]) == pytest.approx(expected[field], abs=1e-6)  # of another batch
    assert by_name["signed.jpg"]["credentials_source_types"] == "trainedAlgorithmicMedia"
    assert by_name["broken.jpg"]["error_reason"] == "not_an_image"
    assert (by_name["large.png"]["error_reason"], by_name["large.png"]["verdict"]) == ("too_large", "")
    page.get_by_role("button", name="signed.jpg").press("Enter")
    assert page.locator("#details-title").evaluate("title => title === document.activeElement")
    claimed = page.get_by_role("complementary", name="Content Credentials").inner_text()
    assert "Claims by the file; they do not move the score." in claimed
    assert SIGNER in claimed
    assert "made by a trained model" in claimed


def test_what_goes_wrong_is_said_and_can_be_tried_again(visit, files: SimpleNamespace) -> None:
    page, tries = visit(), []

    def busy_once(route) -> None:
        tries.append(route.request.url)
        if len(tries) == 1:
            error = {"error": {"reason": "busy", "detail": "as many images wait already as are accepted"}}
            route.fulfill(status=429, headers={"Retry-After": "1"}, json=error)
        else:
            route.continue_()

    page.route("**/predict", busy_once)
    page.set_input_files("#files", files.plain)
    page.locator("#rows", has_text=re.compile("asked again in [12] s")).wait_for(state="attached")
    page.locator(".verdict").wait_for()
    assert len(tries) == 2
    page.unroute("**/predict")
    page.route("**/predict", lambda route: route.abort())
    page.set_input_files("#files", [files.plain, files.markup])
    page.get_by_role("status").filter(has_text="2 images: ").wait_for()
    assert page.get_by_text("The server could not be reached.").count() >= 2
    page.unroute("**/predict")
    page.get_by_role("button", name="Try the failed ones again").click()
    page.get_by_role("status").filter(has_text="2 images: ").wait_for()
    assert page.locator("#rows .mark").count() == 3
    assert page.title() == "Was this image generated?"  # the name of a file has not become a script
    page.route("**/predict", lambda route: None)
    page.set_input_files("#files", [files.plain] * 6)
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("cancelled: not answered").last.wait_for()
    assert page.get_by_text("cancelled: not answered").count() == 6
    page.get_by_role("button", name="Clear the list").click()
    assert page.locator("#list").is_hidden()
    assert page.locator("#details").is_hidden()
    page.unroute("**/predict")
    page.set_input_files("#files", files.broken)
    page.locator(".result .missing").wait_for()
    assert "There is no answer to this file" in page.get_by_role("status").inner_text()
    assert serious(page) == []


def test_a_server_that_is_not_there_yet_and_a_browser_that_does_not_copy(visit, address: str, files: SimpleNamespace) -> None:
    page = visit()
    page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.route("**/model", lambda route: route.abort())
    page.reload()
    page.get_by_role("alert").filter(has_text="The server could not be reached.").wait_for()
    assert page.get_by_role("button", name="Choose images").is_disabled()
    page.unroute("**/model")
    page.get_by_role("button", name="Try again").click()
    page.locator("#choose:enabled").wait_for()
    assert serious(page) == []
    page.set_input_files("#files", files.plain)
    page.get_by_role("button", name="Copy as JSON").click()
    page.get_by_text("Copied as JSON.").wait_for()


def test_an_explanation_on_demand(visit, files: SimpleNamespace) -> None:
    page = visit()
    page.set_input_files("#files", files.plain)
    page.get_by_role("button", name="Explain").click()
    overlay = page.locator(".overlay img")
    overlay.wait_for()
    assert overlay.evaluate("image => image.decode().then(() => image.naturalWidth)") > 32
    shown = page.locator(".why").inner_text()
    assert "speaks for generated" in shown
    assert re.search(r"covering row \d, column \d (lowers|raises) the logit by", shown)
    assert serious(page) == []
    page.route("**/predict?explain=true", lambda route: None)
    page.get_by_role("button", name="Explain").click()
    page.get_by_role("button", name="Stop explaining").click()
    page.get_by_text("The explanation was stopped.").wait_for()


@pytest.mark.parametrize(("scheme", "width"), [("dark", 360), ("light", 360), ("dark", 1280)])
def test_it_is_whole_on_a_phone_and_in_the_dark(visit, files: SimpleNamespace, scheme: str, width: int) -> None:
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 740})
    page.set_input_files("#files", [files.small, files.formula, files.signed, files.broken])
    page.get_by_role("status").filter(has_text="4 images: ").wait_for()
    for name in ("small.png", "signed.jpg", "broken.jpg"):
        page.get_by_role("button", name=name).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if scheme == "dark":
            assert serious(page) == []


def test_a_detector_that_takes_captions_asks_for_one(visit, tiny_model: str, files: SimpleNamespace) -> None:
    encoder = ClipEncoder(tiny_model, "random")
    detector = detector_of(encoder, "shared")
    detector.use(encoder)
    detector.version = "6" * 64
    with answering(Predictor(detector), WebSettings()) as address:
        page = visit(address)
        page.set_input_files("#files", files.plain)
        page.get_by_label("Its caption or prompt").fill("a cat, by day")
        page.keyboard.press("Enter")
        page.locator(".verdict").wait_for()
        assert "a cat.png: " in page.get_by_role("status").inner_text()


def test_behind_a_token_the_browsers_own_window_is_enough(visit, predictor: Predictor, files: SimpleNamespace) -> None:
    with answering(predictor, WebSettings(token=TOKEN)) as address:
        page = visit(address, http_credentials={"username": "any", "password": TOKEN})
        page.set_input_files("#files", files.plain)
        page.locator(".verdict").wait_for()
