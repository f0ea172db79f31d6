"""`/metrics` for Prometheus, `/figures` as JSON, and the page at `/`."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .house import House

_KINDS = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


def routes(house: House) -> APIRouter:
    """The routes of figures and of the page."""
    router = APIRouter()
    house.figures.watch(
        {
            "sessions_in_batch": lambda: len(house.engine.batch),
            "requests_waiting": lambda: len(house.engine.gate.waiting),
            "sessions_in_memory": lambda: len(house.marks),
            "bytes_in_memory": lambda: house.marks.nbytes,
            "sessions_kept": lambda: house.store.counts[0],
            "sessions_on_disk": lambda: house.store.counts[1],
            "slots_free": lambda: house.engine.gate.free,
            "bytes_on_disk": lambda: house.store.disk,
            "sessions_parked": lambda: house.marks.parked,
            "sessions_woken": lambda: house.marks.woken,
        }
    )

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
