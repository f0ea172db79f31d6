"""Signals that ask a process to stop, at moments that harm nothing: SIGINT (Ctrl-C), SIGTERM and SIGHUP.

Only a signal that has a handler in Python is taken over. One that is ignored (`nohup`, a background job) stays ignored,
and one that ends the process at once still does: a program that uses the library keeps its own ways. The command line
gives all three a handler.
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
FORCE = 3  # this Ctrl-C waits for nothing


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop.

    number    of the signal
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number


class ForcedStop(BaseException):
    """Ctrl-C was pressed again and again: stop without saving anything more."""

    number = signal.SIGINT


def exit_code(stopped: BaseException | Interrupts) -> int:
    """128 + the signal's number, as shells have it; a plain KeyboardInterrupt is SIGINT."""
    return 128 + int(getattr(stopped, "number", signal.SIGINT))


def _handlers() -> dict[int, Callable[..., Any]]:
    """Signals with a handler in Python; none outside the main thread, which alone is interrupted."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: found for number in SIGNALS if callable(found := signal.getsignal(number))}


@contextmanager
def shielded() -> Iterator[None]:
    """A signal during the block takes effect right after it, so that a step is made wholly or not at all."""
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
    """A stop as a question that a loop asks itself: `check()` between steps, `waiting()` round what may block.

    Inside `with Interrupts() as stop:` Stopped is raised by these two alone. The third Ctrl-C raises ForcedStop anywhere.

    number    of the first signal that came, or None
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
        """Whether a signal came."""
        return self.number is not None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            if Interrupts.active is not None:
                Interrupts.active.check()  # what was raised may have been swallowed, by an import for example
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
        elif self.waits and self._late != 1:  # one more signal does not disturb what the first one ended
            self._due = Stopped(self.number)
        self.settle()

    def settle(self) -> None:
        """Raise what a signal left to be raised, unless a step is being made."""
        if self._due is not None and not self.shields:
            due, self._due, self._obeyed = self._due, None, True
            raise due

    def check(self) -> None:
        """Raise Stopped if a signal came."""
        if self.number is not None:
            self._obeyed = True
            raise Stopped(self.number)

    def again(self, number: int) -> None:
        """Have a signal come again in a moment: what it raised was swallowed, by a callback of an import for example."""
        self._obeyed, self._late = False, 0
        threading.Timer(0.05, lambda: os.kill(os.getpid(), number) if Interrupts.active is not None else None).start()

    @contextmanager
    def waiting(self, check: bool = True) -> Iterator[None]:
        """A block that a signal may end at once; `check` whether one came before."""
        self.waits += 1
        try:
            if check:
                self.check()
            yield
        finally:
            self.waits -= 1


@contextmanager
def stopping() -> Iterator[Interrupts]:
    """The block of a whole process: SIGTERM and SIGHUP end it as Ctrl-C does, by Stopped, unless they are ignored."""
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
