"""One writer at a time, and retries that do nothing twice."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import Request

from .problem import Problem

SECONDS, MOST = 600.0, 1024  # for which, and how many, answers are remembered


class Writers:
    """Names of things that a request writes to now."""

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def take(self, name: str) -> None:
        """From now on the caller alone may write, until `give`. Raises Problem 409."""
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


class Answered:
    """Answers of the last ten minutes, for requests that are sent again.

    A request is a retry if it has the `Idempotency-Key` of an earlier one, or says `x-stainless-retry-count` above 0, and has the
    same bearer key, path and body. Only complete answers are remembered: a request that failed has changed nothing.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def name(self, request: Request, body: Any) -> str:
        """What retries of a request have in common."""
        parts = [request.scope["state"]["owner"], request.url.path, request.headers.get("idempotency-key", ""), body]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def earlier(self, request: Request, name: str) -> Any:
        """The answer to an earlier try; None if there is none."""
        known = self._known.get(name)
        count = request.headers.get("x-stainless-retry-count", "0")
        again = "idempotency-key" in request.headers or count.isascii() and count.isdigit() and count.strip("0") != ""
        return known[1] if again and known is not None and time.monotonic() - known[0] < SECONDS else None

    def keep(self, name: str, answer: Any) -> None:
        """Remember an answer."""
        self._known[name] = time.monotonic(), answer
        self._known.move_to_end(name)
        while len(self._known) > MOST:
            self._known.popitem(last=False)
