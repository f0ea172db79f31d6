"""Threads for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Runs each in a thread; what they return, or the first error."""
    found: list[Any] = [None] * len(works)
    ready = threading.Barrier(len(works))

    def run(i: int) -> None:
        try:
            ready.wait(10)
            found[i] = works[i]()
        except BaseException as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x in found:
        if isinstance(x, BaseException):
            raise x
    return found
