"""The page about a run: what it says, what it says of what is missing, and that no text of others becomes markup."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rdd import storage
from rdd.calibration import Calibration
from rdd.evaluation.audit import as_numbers
from rdd.evaluation.groups import Known
from rdd.evaluation.leak_properties import PROPERTIES
from rdd.evaluation.report import evaluate
from rdd.evaluation.robustness import copy_rows
from rdd.evaluation.scores import Scored
from rdd.report.answer import headlines, is_of_captions, statements
from rdd.report.content import Content, Missing
from rdd.report.page import render
from rdd.report.pictures import LONGEST_SIDE, key_of, thumbnail, thumbnails
from rdd.report.tables import audit_rows
from rdd.report.worst import WorstImage, worst_images

HOSTILE = """<script>alert(1)</script>"><img src=http://evil.example/x onerror='a()'>&{{ 7*7 }}"""
CALIBRATION = Calibration(threshold=0.5, false_positive_rate=0.05, slope=1.0, offset=0.0, prior=0.5)


def scored(names: tuple[str, str] = ("easy", "hard"), records: int = 60, better: float = 0.0) -> Scored:
    """Records of a real image and one of each of two generators, which are told from it more and less well."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(records, 3)) + np.array([0, 2.5 + better, 1 + better])
    generators = np.tile(np.array(["real", *names], dtype=object), records)
    return Scored.named(logits.ravel(), np.tile([0, 1, 1], records), generators, np.repeat(np.arange(records), 3))


def finding(auroc: float | None, *, red: bool = False) -> dict:
    bounds = None if auroc is None else [auroc - 0.02, auroc]
    return {"question": HOSTILE, "auroc": auroc, "interval": bounds, "red": red, "unknown": None if auroc else "not held"}


def content(one: Scored, *, text_mode: str = "none", seen: list[str] | None = None, **changes) -> Content:
    known = Known({}, None if seen is None else set(seen))
    values: dict = {
        "name": "run",
        "kind": "evaluation",
        "tested_on": "the test part of features",
        "report": evaluate(one, calibration=CALIBRATION, resamples=100, seed=0, known=known),
        "scored": one,
        "calibration": CALIBRATION,
        "text_mode": text_mode,
        "resamples": 100,
        "audit": Missing("The features were not audited.", "python jobs/audit.py --audit.output 'a b'"),
        "robustness": Missing("Degraded copies were not tried.", "python jobs/robustness.py"),
        "worst": {0: [], 1: []},
        "pictures": {},
        "no_pictures": None,
    }
    return Content(**(values | changes))


class Elements(HTMLParser):
    """Every element with its attributes, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def full_page(name: str) -> str:
    """A page in which every text that can come from outside is ``name``."""
    one = scored((name, "plain"))
    copies = {name: scored((name, "plain"), better=-1)}
    rows = copy_rows(one, copies, threshold=0.5, resamples=100, seed=0)
    images = {0: [WorstImage(1, name, "real", 0, 2.0, True)], 1: [WorstImage(1, name, name, 0, -2.0, True)]}
    return render(
        content(
            one,
            seen=["plain"],
            name=name,
            tested_on=name,
            audit={
                "red": [name],
                "properties": {name: finding(0.9, red=True)},
                "records": 1,
                "images": 2,
                "duplicates": {"same_file": None, "near": {"images": 1, "compared": 9}},
                "equal": {
                    "detector": {"clean": rows["clean"].to_json(), name: rows[name].to_json()},
                    "probe": {
                        "clean": {"auroc": 0.9, "auroc_interval": None, "difference": None},
                        name: {"auroc": 0.8, "auroc_interval": [0.7, 0.9], "difference": -0.1},
                    },
                },
            },
            robustness={
                "images": 180,
                "images_left_out": 3,
                "curves": {name: [name]},
                "copies": {of: row.to_json() for of, row in rows.items()},
            },
            worst=images,
            pictures={key_of(images[0][0]): "data:image/jpeg;base64,AAAA"},
            no_pictures=Missing(name, name),
            facts={name: name},
            changed=[(name, name, name)],
            history=[{"epoch": 1, "val/auroc": 0.8}, {"epoch": 2, "val/auroc": 0.9}],
        )
    )


def test_no_text_of_others_becomes_markup() -> None:
    plain, hostile = Elements(full_page("harmless")), Elements(full_page(HOSTILE))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attributes) for _, attributes in hostile.tags] == [sorted(attributes) for _, attributes in plain.tags]
    assert hostile.text.count("<script>alert(1)</script>") > 12
    assert "{{ 7*7 }}" in hostile.text


def test_the_page_asks_nothing_of_any_other_place_and_runs_no_program() -> None:
    page = full_page("harmless")
    elements = Elements(page)
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in elements.tags}
    for tag, attributes in elements.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "xlink:href")], tag
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, attributes)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_who_does_not_see_the_page_can_follow_it() -> None:
    elements = Elements(full_page("harmless"))
    levels = [int(tag[1]) for tag, _ in elements.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in elements.tags if tag == "th")
    assert all(attributes.get("alt") for tag, attributes in elements.tags if tag == "img")
    assert all("aria-label" in of or of.get("aria-hidden") == "true" for tag, of in elements.tags if tag == "svg")
    assert all(of.get("tabindex") == "0" and of["aria-label"] for tag, of in elements.tags if of.get("class") == "scroll")
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_what_was_not_run_is_said_with_the_command_that_runs_it() -> None:
    elements = Elements(render(content(scored(), no_pictures=Missing("The images are not at hand (gone).", "python x"))))
    for text in (
        "The features were not audited.",
        "python jobs/audit.py --audit.output 'a b'",
        "Degraded copies were not tried.",
        "python jobs/robustness.py",
        "The images are not at hand (gone).",
        "Whether the set leaks the label through file sizes, formats or captions was not audited.",
        "How far it falls on re-compressed, resized or noisy copies was not tried.",
    ):
        assert text in elements.text


def test_generators_seen_in_training_and_others_are_two_answers_and_two_tables() -> None:
    page = content(scored(), seen=["easy"])
    shown = headlines(page)
    assert [one.title for one in shown] == ["Generators seen in training", "Generators never seen in training"]
    report = page.report
    assert [one.value for one in shown] == [f"{report['by_generator'][name]['auroc']:.4f}" for name in ("easy", "hard")]
    assert f"{report['auroc']:.4f}" not in [one.value for one in shown]
    tables = re.findall("<caption>(.*?)</caption>", render(page))
    assert tables[:2] == ["Generators seen in training", "Generators never seen in training"]
    assert [one.title for one in headlines(content(scored()))] == ["All generators; which were seen in training is not known"]


def test_an_auc_without_a_misranked_pair_is_a_bound() -> None:
    assert headlines(content(scored(better=50)))[0].interval.startswith(
        "no pair is mis-ranked; with 95 % confidence at least 0."
    )


def test_a_leak_that_the_detector_can_not_see_is_told_apart() -> None:
    properties = {name: finding(0.9, red=True) for name in ("square", "text_words", "text_words_official")}
    audit = {"red": list(properties), "properties": properties, "records": 1, "images": 2}

    def said(text_mode: str, red: list[str]) -> str:
        texts = [one.text for one in statements(content(scored(), text_mode=text_mode, audit=audit | {"red": red}))]
        return " ".join(text for text in texts if "eak" in text or "aptions" in text)

    assert "told apart by square (AUC 0.9000). The AUC above may be owed" in said("none", ["square", "text_words"])
    assert "Captions tell the classes apart, text_words (AUC 0.9000), but" in said("none", ["square", "text_words"])
    assert "told apart by text_words (AUC 0.9000). The AUC" in said("shared", ["text_words", "text_words_official"])
    assert "told apart by text_words_official (AUC 0.9000). The AUC" in said("official", ["text_words_official"])
    assert "No red leak that this detector could have used" in said("shared", ["text_words_official"])
    of_captions = {one.name for one in PROPERTIES if is_of_captions(one.name)}
    assert {"caption_length", "caption_cosine", "text_words", "text_words_official"} <= of_captions
    assert all(
        any("caption" in column or "text" in column for column in one.columns) == is_of_captions(one.name) for one in PROPERTIES
    )


def test_red_leaks_come_first_and_unknown_properties_last() -> None:
    properties = {"a": finding(0.7), "b": finding(None), "c": finding(0.65, red=True), "d": finding(0.8)}
    assert [name for name, _ in audit_rows({"properties": properties})] == ["c", "d", "a", "b"]
    assert as_numbers([]) == {}


def test_the_report_of_an_earlier_version_has_a_page() -> None:
    report = {
        "auroc": 0.9,
        "auroc_interval": None,
        "real_images": 60,
        "generated_images": 120,
        "by_generator": {"easy": {"auroc": 0.95, "images": 60}, "hard": {"auroc": 0.85, "images": 60}},
        "worst_generator": {"name": "hard", "auroc": 0.85},
    }
    text = Elements(render(content(scored(), report=report))).text
    assert "AUC 0.9000" in text
    assert "interval unknown: too few records" in text


def test_bands_bins_and_any_further_numbers_of_a_report_are_shown() -> None:
    page = content(scored())
    bands = {"uncertain": 0.125, "false_positive_rate": 0.01, "false_negative_rate": 0.05, "by_generator": {"easy": {}}}
    bins = [{"probability": 0.3, "generated_share": 0.4, "generated_share_interval": [0.2, 0.5]}]
    added = {"bands": bands, "coverage": {"0.9": {"real_coverage": 0.5}}, "drift": 0.5, "drift_interval": [0.25, 0.75]}
    added["reliability"] = [one | {"real_images": 3, "generated_images": 2} for one in bins]
    page = render(content(scored(), report=dict(page.report) | added))
    assert "share of generated images: 0.30: 0.40&#34;" in page.replace('"', "&#34;")
    assert "it does so of 12.5 % of the images, calls 1.0 % of the real ones likely generated and 5.0 % of" in page
    assert re.search(r'bands: uncertain</th><td class="number">0.125</td>', page)
    assert re.search(r'coverage: 0.9: real coverage</th><td class="number">0.5</td>', page)
    assert "bands: by generator" not in page
    assert re.search(r'drift</th><td class="number">0.5</td><td>0.25 to 0.75</td>', page)


def test_the_worst_images_are_named_by_record_generator_and_place(tmp_path: Path) -> None:
    generators = np.array(["real", "g", "g", "real", "g", "g"], dtype=object)
    one = Scored.named(
        np.array([3.0, 2.0, -1.0, 0.0, 1.0, -2.0]), np.array([0, 1, 1, 0, 1, 1]), generators, np.repeat([0, 1], 3)
    )
    file = str(tmp_path / "logits.parquet")
    storage.write_table(file, pa.table({"record_id": ["a"] * 3 + ["b"] * 3}))
    worst = worst_images(file, one, threshold=0.5, number=2)
    assert [(w.rank, w.record_id, w.generator, w.nth, w.is_wrong) for w in worst[0]] == [
        (1, "a", "real", 0, True),
        (2, "b", "real", 0, False),
    ]
    assert [(w.record_id, w.nth, w.logit, w.is_wrong) for w in worst[1]] == [("b", 1, -2.0, True), ("a", 1, -1.0, True)]


def picture(color: str, size: tuple[int, int] = (400, 200)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_thumbnail_is_small_and_holds_pixels_alone() -> None:
    address = thumbnail(picture("red"), max_pixels=10**6)
    assert address.startswith("data:image/jpeg;base64,")
    assert len(address) < 4000
    image = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert image.size == (LONGEST_SIDE, LONGEST_SIDE // 2)
    assert not image.getexif()


@pytest.fixture
def folder_features(tmp_path: Path) -> Path:
    """Features of a folder of two images, as far as thumbnails need them."""
    from rdd.hashing import sha256_bytes
    from rdd.schema import features_schema

    images = {"real/a.png": picture("red"), "fake/g/b.png": picture("blue")}
    rows, schema = [], features_schema(["projected"])
    for number, (name, data) in enumerate(images.items()):
        place = tmp_path / "images" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        row = {"key": name, "source": str(tmp_path / "images"), "row": number, "record_id": name}
        row |= {"generators": ["real" if number == 0 else "g"], "sha256s": [bytes.fromhex(sha256_bytes(data))]}
        rows.append({column: row.get(column) for column in schema.names})
    storage.write_table(str(tmp_path / "features/data/a.parquet"), pa.Table.from_pylist(rows, schema=schema))
    manifest = {"embed_dim": 8, "text": False, "records_written": 2, "images": 2, "encoder": {"embed_dim": 8}}
    manifest |= {"features": {"projected": {"width": 8, "dtype": "float16"}}}
    manifest["config"] = {"records": {"kind": "folder", "path": str(tmp_path / "images")}}
    storage.write_json(str(tmp_path / "features/manifest.json"), manifest)
    return tmp_path


def test_images_are_found_where_they_were_embedded_from_and_others_in_their_place_are_not_shown(folder_features: Path) -> None:
    features = str(folder_features / "features")
    wanted = [WorstImage(1, "real/a.png", "real", 0, 1.0, True), WorstImage(1, "fake/g/b.png", "g", 0, 1.0, True)]
    assert set(thumbnails(features, wanted)) == {key_of(one) for one in wanted}
    (folder_features / "images/real/a.png").write_bytes(picture("green"))
    assert set(thumbnails(features, wanted)) == {key_of(wanted[1])}
    (folder_features / "images/fake/g/b.png").unlink()
    assert thumbnails(features, wanted) == {}
