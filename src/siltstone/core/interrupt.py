"""Delays signals that stop a process to safe points: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

Only signals with a handler in Python are handled here. A signal that is ignored (`nohup`, a background job) stays ignored, and a
signal with the default action still ends the process at once: a program that uses the library keeps its own settings. The
command line installs a handler for all three.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

SIGNALS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGINT", "SIGTERM") if hasattr(signal, name))
FORCE = 3  # the third Ctrl-C takes effect at once


class Stopped(KeyboardInterrupt):
    """A signal stops the process.

    number    number of the signal
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


class ForcedStop(BaseException):
    """Ctrl-C was pressed three times: stop without saving."""

    number = signal.SIGINT


def exit_code(stopped: BaseException | Interrupts) -> int:
    """128 + the signal's number, as in shells; a plain KeyboardInterrupt is SIGINT."""
    return 128 + int(getattr(stopped, "number", signal.SIGINT))


def _handlers() -> dict[int, Callable[..., Any]]:
    """Signals with a handler in Python; none outside the main thread, as only the main thread is interrupted."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: found for number in SIGNALS if callable(found := signal.getsignal(number))}


@contextmanager
def shielded() -> Iterator[None]:
    """A signal during the block takes effect directly after it, so that a step is complete or not made at all."""
    ours = Interrupts.active
    if ours is not None and threading.current_thread() is threading.main_thread():
        ours.shields += 1
        try:
            yield
        finally:
            ours.shields -= 1
        ours.settle()
        if ours.waits:
            ours.check()
        return
    before, caught = _handlers(), []
    try:
        for number in before:
            signal.signal(number, lambda *given: caught.append(given))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number, frame in caught:
        before[number](number, frame)


class Interrupts:
    """Lets a loop decide when a signal takes effect: `check()` between steps, `waiting()` round calls that may block.

    Inside `with Interrupts() as stop:` only these two raise Stopped. The third Ctrl-C raises ForcedStop anywhere.

    number    number of the first signal, or None
    """

    active: ClassVar[Interrupts | None] = None

    def __init__(self) -> None:
        self.number: int | None = None
        self.shields = 0
        self._due: BaseException | None = None
        self.waits, self._obeyed, self._late = 0, False, 0
        self._seen: Counter[int] = Counter()
        self._before: dict[int, Callable[..., Any]] = {}
        self._outer: Interrupts | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            if Interrupts.active is not None:
                Interrupts.active.check()  # an earlier Stopped may have been swallowed, for example by an import
            self._outer, Interrupts.active = Interrupts.active, self
            self._before = _handlers()
            for number in self._before:
                signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if Interrupts.active is self:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            Interrupts.active = self._outer
            if self._outer is not None and self._outer.number is None:
                self._outer.number = self.number

    def _handle(self, number: int, *_: object) -> None:
        self.number = number if self.number is None else self.number
        self._seen[number] += 1
        self._late += self._obeyed
        if number == signal.SIGINT and self._seen[number] >= FORCE:
            self._due = ForcedStop()
        elif self.waits and self._late != 1:  # a second signal does not interrupt the handling of the first one
            self._due = Stopped(self.number)
        self.settle()

    def settle(self) -> None:
        """Raise the pending exception of a signal, unless inside `shielded`."""
        if self._due is not None and not self.shields:
            due, self._due, self._obeyed = self._due, None, True
            raise due

    def check(self) -> None:
        """Raise Stopped if a signal has arrived."""
        if self.number is not None:
            self._obeyed = True
            raise Stopped(self.number)

    def again(self, number: int) -> None:
        """Send a signal again after a moment: its exception was swallowed, for example by a callback of an import."""
        self._obeyed, self._late = False, 0
        threading.Timer(0.05, lambda: os.kill(os.getpid(), number) if Interrupts.active is not None else None).start()

    @contextmanager
    def waiting(self, check: bool = True) -> Iterator[None]:
        """A block that a signal may end at once. check: raise Stopped first if a signal has already arrived."""
        self.waits += 1
        try:
            if check:
                self.check()
            yield
        finally:
            self.waits -= 1


@contextmanager
def stopping() -> Iterator[Interrupts]:
    """A block for a whole process: SIGTERM and SIGHUP raise Stopped like Ctrl-C, unless they are ignored."""
    if threading.current_thread() is not threading.main_thread() or Interrupts.active is not None:
        yield Interrupts.active or Interrupts()
        return
    hook = sys.unraisablehook
    given = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in given:
        signal.signal(number, signal.default_int_handler)
    try:
        with Interrupts() as stop, stop.waiting():

            def unraisable(found: Any) -> None:
                if isinstance(found.exc_value, (Stopped, ForcedStop)):
                    stop.again(found.exc_value.number)
                else:
                    hook(found)

            sys.unraisablehook = unraisable
            yield stop
    finally:
        sys.unraisablehook = hook
        for number in given:
            signal.signal(number, signal.SIG_DFL)
