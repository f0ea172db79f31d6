"""The application: checks before every route, error bodies, and the routes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, urlsplit

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from ..core.version import VERSION
from ..errors import StorageError
from . import chat, completions, conversations, dashboard, responses, session_routes
from .house import House
from .journal import Counts
from .problem import Problem, problem
from .schema import describe

LOCAL = {"localhost", "127.0.0.1", "::1"}
TIDY = 30.0  # seconds between two rounds that forget what has expired
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

        now, counts, name = asyncio.get_running_loop().time(), Counts(), f"req_{secrets.token_hex(16)}"
        state = {"owner": "", "until": now + self.house.limits.deadline, "counts": counts}
        status, complete = 499, False

        async def headed(message: Any) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                more = HEADERS | {"X-Request-Id": name}
                message["headers"] = [*message["headers"], *((k.lower().encode(), v.encode()) for k, v in more.items())]
            await send(message)
            complete = complete or message["type"] == "http.response.body" and not message.get("more_body")

        scope["state"] = dict(scope.get("state") or {}) | state
        try:
            try:
                scope["state"]["owner"] = self._owner(Request(scope))
            except Problem as error:
                await _told(error)(scope, receive, headed)
                return
            await self.app(scope, receive, headed)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            took = asyncio.get_running_loop().time() - now
            self.house.figures.request(route, status)
            line = {"request": name, "key": scope["state"]["owner"], "method": scope["method"], "route": route, "status": status}
            self.house.journal.add(line | {"complete": complete, "seconds": round(took, 4)} | counts.line)

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
        tidying = asyncio.create_task(_tidying(house))
        try:
            yield
        finally:
            tidying.cancel()
            for close in house.closing:
                await close()
            await house.engine.stop()
            house.store.close()
            await asyncio.to_thread(house.journal.close)

    app = FastAPI(title="Siltstone", version=VERSION, lifespan=life, docs_url=None, redoc_url=None)
    for module in (chat, completions, responses, conversations, session_routes, dashboard):
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


async def _tidying(house: House) -> None:
    while True:
        await asyncio.sleep(TIDY)
        with suppress(StorageError):  # the next round tries again
            await asyncio.to_thread(house.tidy)


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
            self.figures.problem(told)
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
