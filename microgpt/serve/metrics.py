"""Counters for Prometheus, all at 0 from the start, and the access log: a line of JSON per request, without prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microgpt import __version__, json_text
from microgpt.serve.admission import Admission

LEFT = 499  # the status of a request whose client left before the answer began
STATUSES = (200, 204, 400, 401, 403, 404, 405, 408, 413, 415, 422, 431, LEFT, 500, 503)
NO_ROUTE = "none"  # the label of unknown paths, and of requests that are refused before their path is looked at
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """What is counted."""

    def __init__(self, admission: Admission, routes: Sequence[str]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "microgpt_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self._by_label = {
            (route, status): self._requests.labels(route, status)
            for route in (*routes, NO_ROUTE)
            for status in STATUSES
        }
        self._duration = Histogram(
            "microgpt_request_duration_seconds", "Seconds from a request's head to the end of its answer.",
            ["route"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self._durations = {route: self._duration.labels(route) for route in (*routes, NO_ROUTE)}
        self.first_token = Histogram(
            "microgpt_time_to_first_token_seconds", "Seconds from a request to its reply's first token.",
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter("microgpt_tokens_generated", "Tokens that were drawn.", registry=self.registry)
        active = Gauge("microgpt_active_streams", "Replies under way, streamed or not.", registry=self.registry)
        active.set_function(lambda: admission.active)
        depth = Gauge("microgpt_queue_depth", "Requests that wait for their turn.", registry=self.registry)
        depth.set_function(lambda: admission.waiting)
        Info("microgpt_build", "The version that runs.", registry=self.registry).info({"version": __version__})
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def count(self, route: str, status: int, seconds: float | None = None) -> None:
        """A request was answered."""
        (self._by_label.get((route, status)) or self._requests.labels(route, status)).inc()
        if seconds is not None:
            self._durations[route].observe(seconds)


MEDIA = CONTENT_TYPE_PLAIN_0_0_4


class Observed:
    """The outermost layer of the application: counts and logs every request that it sees."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: Callable[[str], None]) -> None:
        self._app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        status, size = LEFT, 0

        async def sending(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            route = scope.get(ROUTE, NO_ROUTE)
            seconds = time.perf_counter() - began
            self._metrics.count(route, status, seconds)
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "client": scope["client"][0] if scope["client"] else None,
                "method": scope["method"],
                "route": route,
                "status": status,
                "bytes": size,
                "ms": round(seconds * 1000, 1),
            }
            self._log(json_text.dumps(line))


ROUTE = "microgpt.route"  # the key of a scope under which an endpoint leaves its route's path
