import time
from collections.abc import Mapping

import pytest

from rdd.progress import PROGRESS_S
from rdd.resource_use import Use
from rdd.tracking import course
from rdd.tracking.addresses import run_page, server_of
from rdd.tracking.course import Course
from rdd.tracking.tracker import NullTracker


class Logged(NullTracker):
    """Keeps what it is given, by step."""

    def __init__(self) -> None:
        self.points: list[tuple[int, Mapping[str, float]]] = []

    def metrics(self, values: Mapping[str, float], *, step: int) -> None:
        self.points.append((step, values))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(course, "memory_gib", lambda: 0.5)
    return seconds


def test_rates_are_those_since_the_last_point_and_steps_go_on_after_an_earlier_start(now: list[float]) -> None:
    tracker = Logged()
    stage = Course(tracker, "records", done=1000)
    assert not stage.due()
    now[0] += PROGRESS_S
    assert stage.due()
    stage.log(50, uses={"a": Use(8.0, 4.0, None)}, counts={"progress/quarantined": 3})
    assert not stage.due()
    now[0] += 10
    stage.log(250, uses={"a": Use(18.0, 13.0, 1.5), "b": Use(10.0, 1.0, 2.5)})
    now[0] += 20
    stage.end(300)
    assert tracker.points == [
        (1050, {"time/records_per_s": 5.0, "system/busy_share": 0.5, "system/driver_gib": 0.5, "progress/quarantined": 3}),
        (1250, {"time/records_per_s": 20.0, "system/busy_share": 0.5, "system/driver_gib": 0.5, "system/gpu_peak_gib": 2.5}),
        (1300, {"time/mean_records_per_s": 7.5, "system/driver_gib": 0.5}),
    ]


def test_nothing_is_said_of_no_time(now: list[float]) -> None:
    tracker = Logged()
    Course(tracker, "images").end(0)
    assert tracker.points == [(0, {"system/driver_gib": 0.5})]


@pytest.mark.parametrize(
    ("uri", "server"),
    [
        ("http://10.0.0.1:5000/", "http://10.0.0.1:5000"),
        ("https://ann:planted@mlflow.example/base", "https://mlflow.example/base"),
        ("https://ann:p/l@nted@mlflow.example", "https://mlflow.example"),
        ("sqlite:////tmp/mlflow.db", "http://127.0.0.1:5000"),
    ],
)
def test_the_address_of_a_run_is_the_servers_without_a_login(uri: str, server: str) -> None:
    assert server_of(uri) == server
    assert run_page(uri, "1", "abc") == f"{server}/#/experiments/1/runs/abc?workflowType=machine_learning"
