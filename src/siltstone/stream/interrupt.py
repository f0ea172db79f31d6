"""Ctrl-C at moments that harm nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shielded() -> Iterator[None]:
    """Ctrl-C during the block takes effect right after it, so that a step is made wholly or not at all."""
    then = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(then):
        yield  # other threads are never interrupted
        return
    caught: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, then)
    if caught:
        then(*caught[0])


class Interrupts:
    """Ctrl-C as a question that a loop asks itself: `check()` between steps, `waiting()` round a read that may block.

    Inside `with Interrupts() as stop:` KeyboardInterrupt is raised by these two alone.
    """

    def __init__(self) -> None:
        self.asked = False
        self._waits = False
        self._before: Callable[..., Any] | int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_: object) -> None:
        self.asked = True
        if self._waits:
            self._waits = False
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that Ctrl-C may end at once."""
        self._waits = True
        try:
            self.check()
            yield
        finally:
            self._waits = False
