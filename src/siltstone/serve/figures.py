"""Figures of a running server: `/metrics` for Prometheus, `/figures` for the page at `/`. No label names a session or a key."""

from __future__ import annotations

import time
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from .house import House

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_KINDS = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


class Figures:
    """Counts what answers did."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.read = self._counter("tokens_read", "Tokens of prompts that were read")
        self.reused = self._counter("tokens_reused", "Tokens of prompts that were not read again")
        self.written = self._counter("tokens_written", "Tokens that were written")
        self.refused = self._counter("requests_refused", "Requests that found the queue full")
        self.errors = self._counter("errors", "Errors of the server itself")
        self.first = Histogram("siltstone_first_seconds", "To the first text", buckets=_SECONDS, registry=self.registry)
        self.between = Histogram("siltstone_between_seconds", "Between texts", buckets=_SECONDS, registry=self.registry)

    def watch(self, house: House) -> dict[str, Gauge]:
        """Gauges of what a house holds now."""
        found = {
            "sessions_in_batch": lambda: len(house.engine.batch),
            "requests_waiting": lambda: len(house.engine.gate.waiting),
            "sessions_in_memory": lambda: len(house.marks),
            "bytes_in_memory": lambda: house.marks.nbytes,
            "sessions_kept": lambda: house.store.counts[0],
            "sessions_on_disk": lambda: house.store.counts[1],
            "sessions_parked": lambda: house.marks.parked,
            "sessions_woken": lambda: house.marks.woken,
        }
        gauges = {}
        for name, count in found.items():
            gauges[name] = Gauge(f"siltstone_{name}", name.replace("_", " ").capitalize(), registry=self.registry)
            gauges[name].set_function(count)
        return gauges

    def values(self) -> dict[str, float]:
        """The numbers for the page, by their names in words."""
        found = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if family.type in ("counter", "gauge") and not sample.name.endswith("_created"):
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


def routes(house: House) -> APIRouter:
    """The routes of figures and of the page."""
    router = APIRouter()
    house.figures.watch(house)

    @router.get("/metrics")
    def metrics() -> Any:
        return Response(generate_latest(house.figures.registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/figures")
    def figures() -> Any:
        return {"model": house.name, "figures": house.figures.values()}

    @router.get("/")
    def index() -> Any:
        return _file("index.html")

    @router.get("/page.css")
    def css() -> Any:
        return _file("page.css")

    @router.get("/page.js")
    def script() -> Any:
        return _file("page.js")

    return router


def _file(name: str) -> Response:
    content = (files("siltstone.serve") / "page" / name).read_bytes()
    return Response(content, media_type=_KINDS[name], headers={"Cache-Control": "no-cache"})
