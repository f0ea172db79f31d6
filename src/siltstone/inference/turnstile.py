"""Lets threads into a batch one at a time, in about the order in which they came."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..core.entry import Entry
from ..errors import BusyError

PAUSE = 0.05  # seconds after which a waiting thread looks again


class Turnstile:
    """`with turnstile.inside():` waits for the thread that is inside. A thread that leaves and comes again waits for those that
    came before it: a loop of turns does not keep others out.

    lock      for changes of a queue, which take a moment
    driven    whether a thread makes turns in a loop; others wait for news instead of making turns

    For how calls are left after exceptions of signal handlers, see `core.entry`.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._gate, self._left = threading.Lock(), threading.Lock()
        self._inside: list[int] | None = None
        self._driving, self._driver = Entry(), 0
        self._waiting: list[threading.Lock] = []  # one of each waiting thread: released when there are news

    @contextmanager
    def inside(self) -> Iterator[None]:
        """BusyError if this thread is inside already: a hook, a tokenizer or a signal handler called the batch."""
        me = [threading.get_ident()]
        if self._inside == me:
            raise BusyError("a turn of this batch has not returned, and a hook or a handler called the batch; call it afterwards")
        try:
            with self._gate:
                while self._inside is not None:
                    self._left.acquire(timeout=PAUSE)
                self._inside = me
            yield
        finally:
            if self._inside is me:
                self._inside = None
                self._wake(self._left)
                self.tell()

    @contextmanager
    def driving(self) -> Iterator[None]:
        """This thread makes the turns. BusyError if another does."""
        with self._driving.inside(_driven):
            try:
                self._driver = threading.get_ident()
                yield
            finally:
                self._driver = 0
                self.tell()

    @property
    def driven(self) -> bool:
        """Whether another thread makes turns in a loop."""
        return self._driver not in (0, threading.get_ident())

    def tell(self) -> None:
        """Wake the threads that wait for news: something was done, or queued."""
        for waiting in list(self._waiting):
            self._wake(waiting)

    def wait(self, ready: Callable[[], bool], seconds: float = PAUSE) -> None:
        """Return when `ready`, at news, or after some time."""
        mine = threading.Lock()
        mine.acquire()
        try:
            self._waiting.append(mine)
            if not ready():
                mine.acquire(timeout=seconds)
        finally:
            self._waiting.remove(mine)

    def wait_driven(self, ready: Callable[[], bool], turn: Callable[[], object]) -> None:
        """Return when `ready`; make turns if no other thread does."""
        while not ready():
            if self.driven:
                self.wait(lambda: ready() or not self.driven)
            else:
                turn()

    def _wake(self, waiting: threading.Lock) -> None:
        """Release a lock that somebody waits for; it may be released already."""
        try:
            waiting.release()
        except RuntimeError:
            pass


def _driven(own: bool) -> BusyError:
    return BusyError("this batch is run already, by another thread or by a call further up; wait for that one")
