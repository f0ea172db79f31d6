"""Ctrl-C at every place of a call where Python can raise it: afterwards every thread can go on.

The kind of fault: a lock that is taken, and not yet noted as taken, when the handler of a signal raises.
"""

from __future__ import annotations

import contextlib
import dis
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

import siltstone as st
from siltstone.core import entry
from siltstone.inference import turnstile
from siltstone.text import ByteTokenizer

WATCHED = {entry.__file__, turnstile.__file__, contextlib.__file__}
PLACES = ("CALL", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD")  # behind these Python looks for signals
MOST = 400


class Interrupter:
    """Sends SIGINT at place number `at` of the watched files, in this thread, and counts the places. The handler of the moment
    decides: it raises KeyboardInterrupt, or, while a step is shielded, waits for its end."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0
        self._names: dict[CodeType, dict[int, str]] = {}
        self._last: dict[int, str] = {}  # by frames, which it does not keep alive

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        frame.f_trace_opcodes = True
        if event == "call":
            self._last.pop(id(frame), None)
        if event == "opcode":
            code = frame.f_code
            if code not in self._names:
                self._names[code] = {i.offset: i.opname for i in dis.get_instructions(code)}
            before, self._last[id(frame)] = self._last.get(id(frame)), self._names[code][frame.f_lasti]
            if before in PLACES:
                self.count += 1
                if self.count == self.at:
                    signal.raise_signal(signal.SIGINT)
        return self


def every_place(call: Callable[[], object], check: Callable[[], object]) -> int:
    """Makes the call, interrupted at each place in turn, and then the check in another thread. How many places."""
    for at in range(1, MOST):
        by, before = Interrupter(at), sys.gettrace()
        sys.settrace(by)
        try:
            call()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        done: list[object] = []
        thread = threading.Thread(target=lambda done=done: done.append(check()), daemon=True)
        thread.start()
        thread.join(10)
        assert done, f"after an interrupt at place {at}, another thread cannot go on"
        if by.count < at:
            return at
    raise AssertionError("the call has no end")


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def session(model: st.LM, tok: ByteTokenizer) -> st.Session:
    found = st.Session(model, tok)
    found.append("a text")
    return found


def test_a_session(session: st.Session) -> None:
    assert every_place(lambda: session.append([]), lambda: session.append([5])) > 10


def test_pieces(session: st.Session) -> None:
    def call() -> None:
        pieces = session.generate(2, seed=0)
        every.append(pieces)
        next(pieces, None)

    every: list[Any] = []
    assert every_place(call, lambda: every and every[-1].close() or session.append([5])) > 10


@pytest.mark.parametrize("what", ["turn", "feed", "nbytes", "run", "cancel", "join and leave", "fork"])
def test_a_batch(what: str, session: st.Session, model: st.LM, tok: ByteTokenizer) -> None:
    batch = st.Batch(model, tok, slots=1000)
    member = batch.join(session)
    other = batch.join()
    calls: dict[str, Callable[[], object]] = {
        "turn": batch.turn,
        "feed": lambda: member.feed([5]).result(),
        "nbytes": lambda: member.nbytes,
        "run": batch.run,
        "cancel": member.cancel,
        "join and leave": lambda: batch.join().leave().append([5]),
        "fork": lambda: member.fork().leave(),
    }

    def check() -> None:
        other.feed([5]).result()
        with batch._turnstile.driving():
            pass
        assert member.position

    assert every_place(calls[what], check) > 10


def test_a_session_that_joins_belongs_to_a_batch_or_not(model: st.LM, tok: ByteTokenizer) -> None:
    batch = st.Batch(model, tok, slots=1000)
    made = [st.Session(model, tok)]

    def check() -> None:
        seated = {seat.session for seat in batch._turns.seats.values()}
        assert made[-1]._batched == (made[-1] in seated)
        made.append(st.Session(model, tok))

    assert every_place(lambda: batch.join(made[-1]), check) > 10
