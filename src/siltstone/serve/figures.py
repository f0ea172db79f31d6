"""Figures of a running server. The only labels are the route and the status of requests: none names a session or a key."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from .problem import Problem

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Figures:
    """Counts what answers did."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.read = self._counter("tokens_read", "Tokens of prompts that were read")
        self.reused = self._counter("tokens_reused", "Tokens of prompts that were not read again")
        self.written = self._counter("tokens_written", "Tokens that were written")
        self.refused = self._counter("requests_refused", "Requests that found the queue full")
        self.errors = self._counter("errors", "Errors of the server itself")
        self.expired = self._counter("objects_expired", "Sessions, responses and conversations whose time to live has passed")
        self.late = self._counter("requests_late", "Requests that were ended at the deadline")
        self.over = self._counter("requests_over_quota", "Requests of keys that have used what they may")
        self.requests = Counter("siltstone_requests", "Requests", ["route", "status"], registry=self.registry)
        self.waited = Histogram("siltstone_wait_seconds", "In the queue for a slot", buckets=_SECONDS, registry=self.registry)
        self.first = Histogram("siltstone_first_seconds", "To the first text", buckets=_SECONDS, registry=self.registry)
        self._by_code = {"queue_full": self.refused, "deadline": self.late, "quota_exceeded": self.over}
        self.between = Histogram("siltstone_between_seconds", "Between texts", buckets=_SECONDS, registry=self.registry)

    def request(self, route: str, status: int) -> None:
        """A request has ended."""
        self.requests.labels(route, str(status)).inc()

    def problem(self, told: Problem) -> None:
        """A request was answered with an error."""
        if told.code in self._by_code:
            self._by_code[told.code].inc()
        elif told.status in (500, 503):
            self.errors.inc()

    def watch(self, counts: Mapping[str, Callable[[], float]]) -> None:
        """Gauges: what is counted at the moment when somebody looks."""
        for name, count in counts.items():
            words = name.replace("_", " ").capitalize()
            Gauge(f"siltstone_{name}", words, registry=self.registry).set_function(count)

    def values(self) -> dict[str, float]:
        """The numbers for the page, by their names in words."""
        found = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if family.type in ("counter", "gauge") and not sample.labels and not sample.name.endswith("_created"):
                    found[family.name.removeprefix("siltstone_").replace("_", " ")] = sample.value
        return found

    def _counter(self, name: str, words: str) -> Counter:
        return Counter(f"siltstone_{name}", words, registry=self.registry)


class Clock:
    """Times of one text."""

    def __init__(self, figures: Figures) -> None:
        self._figures, self._at, self._first = figures, time.monotonic(), True

    def piece(self) -> None:
        """More of the text has come."""
        now = time.monotonic()
        (self._figures.first if self._first else self._figures.between).observe(now - self._at)
        self._at, self._first = now, False
