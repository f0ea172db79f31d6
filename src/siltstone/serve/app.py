"""The application: checks before every route, error bodies, and the routes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from ..core.version import VERSION
from . import chat, completions, conversations, dashboard, responses, sessions
from .house import House, problem
from .problem import Problem
from .schema import describe

LOCAL = {"localhost", "127.0.0.1", "::1"}
OPEN = {"/health", "/ready"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Door:
    """Checks Host, Origin and key of every request, adds headers to every response. Pure ASGI, so that a route sees its client
    leave."""

    def __init__(self, app: Any, house: House) -> None:
        self.app, self.house = app, house

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def headed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        try:
            scope["state"] = dict(scope.get("state") or {}) | {"owner": self._owner(Request(scope))}
        except Problem as error:
            await _told(error)(scope, receive, headed)
            return
        await self.app(scope, receive, headed)

    def _owner(self, request: Request) -> str:
        host = request.headers.get("host", "")
        if not self.house.public and _split(f"//{host}").hostname not in LOCAL:
            raise Problem(421, "This server is for this machine alone; use localhost.", code="wrong_host")
        origin = request.headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            raise Problem(403, "Requests of pages of other sites are refused.", code="wrong_origin")
        if request.url.path in OPEN:
            return ""
        owner = self.house.keys.owner(request.headers.get("authorization"))
        if owner is None:
            raise Problem(401, "Give a valid key in the header 'Authorization: Bearer KEY'.", code="invalid_api_key")
        return owner


def make_app(house: House) -> FastAPI:
    """The application of a house; its engine runs while the application does."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        house.engine.start()
        try:
            yield
        finally:
            await house.engine.stop()
            house.store.close()

    app = FastAPI(title="Siltstone", version=VERSION, lifespan=life, docs_url=None, redoc_url=None)
    for module in (chat, completions, responses, conversations, sessions, dashboard):
        app.include_router(module.routes(house))

    @app.get("/health")
    def health() -> Any:
        return {"status": "ok"}

    @app.get("/ready")
    def ready() -> Any:
        if not house.engine.ready:
            raise Problem(503, "The model's thread does not run.", code="not_ready")
        return {"status": "ready"}

    @app.get("/v1/models")
    def models() -> Any:
        return {"object": "list", "data": [_model(house)]}

    @app.get("/v1/models/{name:path}")
    def model(name: str) -> Any:
        house.model_named(name)
        return _model(house)

    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(404, _http)
    app.add_exception_handler(405, _http)
    app.add_middleware(_Guard, house=house)
    app.add_middleware(Door, house=house)
    describe(app)
    return app


class _Guard:
    """Turns every error of a route into an error body."""

    def __init__(self, app: Any, house: House) -> None:
        self.app, self.figures = app, house.figures

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def noted(message: Any) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            told = problem(error)
            if told.status == 429:
                self.figures.refused.inc()
            elif told.status in (500, 503):
                self.figures.errors.inc()
            if begun or scope["type"] != "http":
                raise
            await _told(told)(scope, receive, send)


def _told(error: Problem) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


async def _http(request: Request, error: Any) -> JSONResponse:
    return _told(Problem(error.status_code, f"{error.detail}: {request.method} {request.url.path[:80]}", code="no_such_route"))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _model(house: House) -> dict[str, Any]:
    return {"id": house.name, "object": "model", "created": 0, "owned_by": "siltstone"}
