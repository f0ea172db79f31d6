"""Lets threads into a batch one at a time, in about the order in which they came."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import BusyError

PAUSE = 0.05  # seconds after which a waiting thread looks again


class Turnstile:
    """`with turnstile.inside():` waits for the thread that is inside. A thread that leaves and comes again waits for those that
    came before it: a loop of turns does not keep others out.

    news      notified when something was done, or queued
    driver    the thread that makes turns in a loop, if there is one; others wait for news instead of making turns
    """

    def __init__(self) -> None:
        self._gate, self._room = threading.Lock(), threading.Lock()
        self._inside: int | None = None
        self.news = threading.Condition()
        self.driver: int | None = None

    @contextmanager
    def inside(self) -> Iterator[None]:
        """BusyError if this thread is inside already: a hook, a tokenizer or a signal handler called the batch."""
        if self._inside == threading.get_ident():
            raise BusyError("a turn of this batch has not returned, and a hook or a handler called the batch; call it afterwards")
        with self._gate:
            self._room.acquire()
        self._inside = threading.get_ident()
        try:
            yield
        finally:
            self._inside = None
            self._room.release()
            self.tell()

    @contextmanager
    def driving(self) -> Iterator[None]:
        """This thread makes the turns. BusyError if another does."""
        with self.news:
            if self.driver is not None:
                raise BusyError("this batch is run already, by another thread or by a call further up; wait for that one")
            self.driver = threading.get_ident()
        try:
            yield
        finally:
            self.driver = None
            self.tell()

    def tell(self) -> None:
        """Wake the threads that wait for news."""
        with self.news:
            self.news.notify_all()

    def wait(self, ready: Callable[[], bool], seconds: float = PAUSE) -> None:
        """Return when `ready`, or after some time."""
        with self.news:
            self.news.wait_for(ready, seconds)

    def wait_driven(self, ready: Callable[[], bool], turn: Callable[[], object]) -> None:
        """Return when `ready`; make turns if no other thread does."""
        while not ready():
            if self.driver in (None, threading.get_ident()):
                turn()
            else:
                self.wait(lambda: ready() or self.driver is None)
