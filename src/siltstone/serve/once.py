"""One writer at a time, and retries that do nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request

from .following import Run
from .problem import Problem
from .store import Store

SECONDS = 600.0  # for which answers are remembered


class Writers:
    """Names of things that a request writes to now."""

    def __init__(self) -> None:
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    @property
    def busy(self) -> list[str]:
        """The names of all of them."""
        return list(self._busy)

    def take(self, name: str) -> None:
        """From now on the caller alone may write, until `give`. Raises Problem 409."""
        with self._lock:
            if name in self._busy:
                raise Problem(409, "Another request writes to this; wait for it, or fork it.", code="busy")
            self._busy.add(name)

    def give(self, name: str) -> None:
        """The caller has written."""
        self._busy.discard(name)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """`take` and `give`."""
        self.take(name)
        try:
            yield
        finally:
            self.give(name)


class Try:
    """One request that may be sent again; its retries have the same name.

    A request is a retry if it has the `Idempotency-Key` of an earlier one, or says `x-stainless-retry-count` above 0, and has the
    same bearer key, path and body. Only complete answers are remembered, for ten minutes: a request that failed has changed
    nothing. What is appended is committed together with the answer, so that a retry after a crash finds it too.

    name    None: the client says nothing about retries
    again   whether an earlier one may have been answered
    """

    def __init__(self, store: Store, request: Request, body: Any) -> None:
        self._store, self.owner = store, request.scope["state"]["owner"]
        key, count = request.headers.get("idempotency-key"), request.headers.get("x-stainless-retry-count")
        parts = [self.owner, request.method, request.url.path, key or "", body]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        self.name = None if key is None and count is None else f"try_{digest}"
        self.again = key is not None or count is not None and count.isascii() and count.isdigit() and count.strip("0") != ""
        self.kept = False

    def keep(self, answer: Any) -> None:
        """Remember an answer; for what appends, inside its transaction."""
        if self.name is not None and not self.kept:
            self._store.put("try", self.owner, self.name, {"answer": answer}, SECONDS)
            self.kept = True

    def earlier(self) -> Any:
        """The answer to an earlier one; None if there is none."""
        known = self._store.get("try", self.owner, self.name) if self.again and self.name is not None else None
        return None if known is None else known["answer"]


class Tries:
    """Requests that run now, for their retries."""

    def __init__(self) -> None:
        self.running: dict[str, asyncio.Task[Any] | Run] = {}

    def earlier(self, one: Try) -> asyncio.Task[Any] | Run | None:
        """What an earlier request does now."""
        return self.running.get(one.name) if one.again and one.name is not None else None

    def add(self, one: Try, work: asyncio.Task[Any] | Run) -> None:
        """Retries find `work` until it ends."""
        name = one.name
        if name is None:
            return

        def ended(task: Any) -> None:
            if self.running.get(name) is work:
                del self.running[name]

        self.running[name] = work
        (work.task if isinstance(work, Run) else work).add_done_callback(ended)
