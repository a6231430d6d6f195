import re
from importlib.resources import files

import rdd.report
import rdd.serving.web

PAGE = files(rdd.serving.web) / "page"
TEXTS = {place.name: place.read_text() for place in PAGE.iterdir()}


def test_the_page_has_the_colours_of_a_runs_page() -> None:
    reports = (files(rdd.report) / "templates" / "page.css").read_text()
    colours = re.compile(r"--[a-z-]+: #[0-9a-f]{6};")
    both = [colours.findall(css.partition("@media print")[0]) for css in (reports, TEXTS["page.css"])]
    assert both[0] == both[1]
    assert len(both[0]) > 20


def test_no_text_becomes_markup_and_nothing_lies_elsewhere() -> None:
    for name, text in TEXTS.items():
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style="):
            assert word not in text, f"{name}: {word}"
        assert set(re.findall(r"https?://[^\"' ]+", text)) <= {"http://www.w3.org/2000/svg"}, name


def test_every_part_of_the_page_is_there_and_asked_for() -> None:
    asked = {found for text in TEXTS.values() for found in re.findall(r'(?:from "\./|src="|href=")([a-z]+\.(?:js|css))"', text)}
    assert asked == TEXTS.keys() - {"index.html"}
