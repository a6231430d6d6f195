"""Counts and times for Prometheus, of one server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rdd.serving.answer import Answer
from rdd.serving.web.gate import Gate

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The server's own; no name of an image is among them.

    Args:
        gate: whose images are in flight.
    """

    def __init__(self, gate: Gate) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("rdd_requests", "Requests by route and HTTP code", ["route", "code"], registry=self._registry)
        self._seconds = Histogram(
            "rdd_request_seconds",
            "Seconds from a request's headers to the end of its answer",
            ["route"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._bytes = Counter("rdd_image_bytes", "Bytes of the images that were answered", registry=self._registry)
        self._verdicts = Counter("rdd_verdicts", "Images by verdict", ["verdict"], registry=self._registry)
        self._refusals = Counter("rdd_refusals", "Requests without an answer by reason", ["reason"], registry=self._registry)
        in_flight = Gauge("rdd_images_in_flight", "Images accepted and not answered yet", registry=self._registry)
        in_flight.set_function(lambda: gate.in_flight)

    def request(self, route: str, code: int, seconds: float) -> None:
        """One request is over."""
        self._requests.labels(route, code).inc()
        self._seconds.labels(route).observe(seconds)

    def image(self, answer: Answer, size: int) -> None:
        """One image of so many bytes got its verdict."""
        self._verdicts.labels(answer.verdict).inc()
        self._bytes.inc(size)

    def refusal(self, reason: str) -> None:
        """One request gets no answer."""
        self._refusals.labels(reason).inc()

    def text(self) -> bytes:
        """As Prometheus reads it, in the format of :data:`CONTENT_TYPE`."""
        return generate_latest(self._registry)
