"""The dress rehearsal in small, so that it works when it is wanted; it checks its results itself."""

import pytest
from _rehearsal_report import table_of
from dress_rehearsal import rehearse

pytestmark = [pytest.mark.cluster, pytest.mark.long]


@pytest.mark.timeout(1500)
def test_a_small_dress_rehearsal_survives_its_kills() -> None:
    report = rehearse(300, ways=["driver"])
    for stage in ("fetch", "embed"):
        killed = [attempt.killed for attempt in report["stages"][stage].attempts]
        assert killed == ["driver", None]
    assert "No disagreement." in table_of(report)
