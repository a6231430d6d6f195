"""Directives of X-Robots-Tag."""

import pytest

from rdd.data.robots import forbidding_directive


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        (["all"], None),
        (["nofollow, max-image-preview: large"], None),
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow , noindex"], "noindex"),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["none"], "none"),
        (["rdd: noai"], "noai"),
        (["RDD:noindex"], "noindex"),
        (["*: noai"], "noai"),
        (["googlebot: noai"], None),
        (["googlebot: noindex, noai"], None),
        (["googlebot: noindex, rdd: noai"], "noai"),
        (["rdd: nofollow, noimageai"], "noimageai"),
        (["googlebot: nofollow", "noai"], "noai"),
        (["unavailable_after: 25 Jun 2010 15:00:00 PST, noai"], "noai"),
        (["max-snippet: 20, noindex"], "noindex"),
        (["noaim, indexing"], None),
    ],
)
def test_directives_for_all_and_for_this_agent_count(headers: list[str], found: str | None) -> None:
    assert forbidding_directive(headers) == found
