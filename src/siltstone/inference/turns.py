"""The turns of a batch: sessions that write, or read a short text, take one token together; others read slices of long texts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.interrupt import shielded
from ..errors import PoolFull
from ..models.lm import LM
from .receipt import Timeline
from .rows import Row, Rows, bucket
from .runtime import Runtime
from .session import Session
from .work import Reading, Writing


@dataclass(eq=False)
class Seat:
    """A session's place in a batch: the slot that is its row while it lives, and its queue."""

    session: Session
    slot: int
    queue: deque[Reading | Writing] = field(default_factory=deque)
    failed: list[Reading | Writing] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)
    gone: bool = False

    def now(self) -> tuple[Reading | Writing, int | None] | None:
        """The first work that is not done, and its token for a step (None: it is read in slices); None without work."""
        while self.queue:
            work = self.queue[0]
            try:
                token = None if work.done else work.token(self.session)
            except Exception as error:  # its owner is told; other sessions go on
                self.fail(error)
                continue
            if not work.done:
                return work, token
            self.queue.popleft()
        return None

    def fail(self, error: Exception) -> None:
        """The first work failed: what is queued behind it is not begun, as it would follow another text."""
        self.failed.append(self.queue[0])
        while self.queue:
            self.queue.popleft().end(error)

    def tell(self) -> None:
        """Raise the error of work that failed, if its result has not raised it."""
        while self.failed:
            work = self.failed.pop(0)
            if work.error is not None and not work.told:
                work.told = True
                raise work.error

    def cancel(self) -> None:
        """End what is queued."""
        while self.queue:
            self.queue.popleft().cancel()

    def apart(self) -> None:
        """Take the session's state out of the rows, if it is there."""
        if isinstance(self.session._state, Row):
            self.session._state = self.session._state.take()


class Turns:
    """Makes turns for some seats; one thread at a time.

    slice     tokens that are read by all together in a turn, besides the step
    """

    def __init__(self, model: LM, runtime: Runtime, cuts: Tensor | None, slice: int) -> None:
        self.rows, self.slice = Rows(model, runtime, cuts), slice
        self.seats: dict[int, Seat] = {}
        self._next = 0  # the slot that reads first

    def make(self) -> bool:
        """One turn; False if nothing was queued. A signal takes effect at its end."""
        with shielded(), torch.no_grad():
            stepping: dict[int, int] = {}
            reading: list[Seat] = []
            for slot in sorted(self.seats):
                found = self.seats[slot].now()
                if found is None:
                    continue
                if found[1] is None:
                    reading.append(self.seats[slot])
                else:
                    stepping[slot] = found[1]
            if stepping:
                self._step(stepping)
            if reading:
                self._read(reading)
            return bool(stepping or reading)

    def drop(self, seat: Seat) -> None:
        """A session leaves with its state."""
        seat.apart()
        self.rows.drop(seat.slot)
        del self.seats[seat.slot]

    def _step(self, tokens: dict[int, int]) -> None:
        seats, began = [self.seats[slot] for slot in tokens], time.perf_counter()
        entering = {seat.slot: seat.session._state for seat in seats if not isinstance(seat.session._state, Row)}
        try:
            self.rows.arrange(entering, bucket(max(self.seats) + 1))
            for slot in entering:
                self.seats[slot].session._state = Row(self.rows, slot)
            for seat in seats:
                seat.session._torn = True
            logits = self.rows.step(tokens)
        except Exception as error:
            for seat in seats:
                if isinstance(error, PoolFull):  # it is raised before anything is changed
                    seat.session._torn = False
                seat.fail(error)
            return
        for seat in seats:
            session, work, slot = seat.session, seat.queue[0], seat.slot
            given, last = [tokens[slot]], logits[slot]
            scores = work.score(session._logits, last[None], torch.tensor(given, device="cpu")) if work.scored else None
            session._took(given, last, session._state, work.again)
            self._done(seat, given, scores, began)

    def _read(self, seats: Sequence[Seat]) -> None:
        """Slices of long texts, of `slice` tokens in all; those that read nothing come first in the next turn."""
        left = self.slice
        for seat in sorted(seats, key=lambda seat: (seat.slot < self._next, seat.slot)):
            work, began = seat.queue[0], time.perf_counter()
            assert isinstance(work, Reading)
            ids = work.ids[work.at : work.at + self.slice]
            self._next = seat.slot
            if len(ids) > left:
                return
            try:
                seat.apart()
                scores = list(seat.session._read(ids, work.scored, work.again, work.score))
            except Exception as error:
                seat.fail(error)
                continue
            left, self._next = left - len(ids), seat.slot + 1
            self._done(seat, ids.tolist(), torch.cat(scores) if work.scored else None, began)

    def _done(self, seat: Seat, tokens: list[int], scores: Tensor | None, began: float) -> None:
        seat.timeline.add(len(tokens), time.perf_counter() - began)
        work = seat.queue[0]
        work.took(tokens, scores)
        if work.done:
            seat.queue.popleft()
