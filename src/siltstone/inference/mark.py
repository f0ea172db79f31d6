"""Objects that a session returns: marks for `rollback`, and the pieces of a generated text."""

from __future__ import annotations

import copy
import weakref
from array import array
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.entry import Entry
from ..errors import BusyError, InputError, PositionError
from ..models.streaming import StreamingState
from .attending import asks


class Mark:
    """A saved point of a session, from `Session.snapshot`. It takes one copy of the session's small parts until the last
    reference to it is gone or `release()` is called. The session keeps its ids from the oldest live mark on."""

    def __init__(
        self, position: int, state: StreamingState, logits: Tensor | None, sampler: Tensor, notes: dict[str, Any]
    ) -> None:
        self.position = position
        self._state: StreamingState | None = state
        self._logits = logits
        self._sampler = sampler
        self._notes = copy.deepcopy(notes)

    @property
    def live(self) -> bool:
        """Whether a session can still roll back to it."""
        return self._state is not None

    def release(self) -> None:
        """Free its memory; `rollback` to it then raises PositionError."""
        self._state, self._logits, self._notes = None, None, {}

    def __repr__(self) -> str:
        return f"Mark(position={self.position}{'' if self.live else ', released'})"


class Trail:
    """What `rollback` needs: the live marks of a session, and the ids since the oldest of them.

    turns   the positions at which `asking` was set, and to what
    """

    def __init__(self) -> None:
        self._marks: list[weakref.ref[Mark]] = []
        self._ids = array("q")
        self.turns: dict[int, bool] = {}

    def copy(self) -> Trail:
        """One that is independent, with the same marks."""
        twin = Trail()
        twin._marks, twin._ids, twin.turns = list(self._marks), self._ids[:], dict(self.turns)
        return twin

    @property
    def nbytes(self) -> int:
        """Bytes of the ids."""
        return len(self._ids) * self._ids.itemsize

    def live(self) -> list[Mark]:
        """Valid marks, oldest first."""
        found = (ref() for ref in self._marks)
        return sorted((m for m in found if m is not None and m.live), key=lambda m: m.position)

    def add(self, mark: Mark) -> None:
        """A mark at the session's position."""
        self.trim(mark.position)
        self._marks.append(weakref.ref(mark))

    def read(self, ids: list[int]) -> None:
        """The session has read these ids."""
        if self._marks:
            self._ids.extend(ids)

    def trim(self, position: int) -> None:
        """Drop marks without references, and the ids before the oldest live mark; the session is at `position`."""
        if not self._marks:
            return
        marks = self.live()
        self._marks = [weakref.ref(m) for m in marks]
        drop = len(self._ids) - (position - marks[0].position) if marks else len(self._ids)
        if drop > 0:
            del self._ids[:drop]

    def back(self, to: Mark | int, position: int) -> tuple[Mark | None, Tensor]:
        """The mark that a session at `position` goes back to (None: it stays there), and the ids [tokens] to read again.

        Later marks, and the ids after the mark, are dropped. Raises PositionError, InputError; then nothing is changed.
        """
        self.trim(position)
        marks, none = self.live(), torch.empty(0, dtype=torch.long, device="cpu")
        if isinstance(to, Mark):
            if not any(to is m for m in marks):
                why = "belongs to another session, or this one has gone back to before it" if to.live else "was released"
                raise PositionError(f"cannot go back to {to}: it {why}; take a snapshot of this session, or fork it beforehand")
            self._go(to, marks)
            return to, none
        if not isinstance(to, int) or isinstance(to, bool):
            raise InputError(f"rollback to {to!r}: give a mark or a position (a whole number)")
        if to == position:
            return None, none
        before = [m for m in marks if m.position <= to]
        if to > position or not before:
            kept = f"ids are kept from {marks[0].position} on (the oldest live mark)" if marks else "no mark is live"
            raise PositionError(
                f"cannot go back to position {to}: the session is at {position}, and {kept}; "
                "take a snapshot() at or before the position to go back to"
            )
        mark = before[-1]  # of those at one position the latest
        turned = [turn for turn in self.turns if mark.position <= turn < to and not self._within(mark, turn)]
        if turned:
            raise PositionError(
                f"cannot go back to position {to}: `asking` was set at position {turned[0]}, after the mark at {mark.position}; "
                "go back to the mark, or take a snapshot() after it is set"
            )
        first = marks[0].position
        ids = torch.tensor(self._ids[mark.position - first : to - first], dtype=torch.long, device="cpu")
        self._go(mark, marks)
        return mark, ids

    def _within(self, mark: Mark, turn: int) -> bool:
        """Whether `asking` was set at the position `turn` before the mark was made."""
        return turn < mark.position or turn == mark.position and asks(mark._state) == self.turns[turn]

    def _go(self, mark: Mark, marks: list[Mark]) -> None:
        self._marks = [weakref.ref(m) for m in marks[: marks.index(mark) + 1]]
        del self._ids[mark.position - marks[0].position :]
        self.turns = {turn: now for turn, now in self.turns.items() if self._within(mark, turn)}


class Pieces(Iterator[str]):
    """The pieces of text that `Session.generate` yields; BusyError while another thread waits for a piece."""

    def __init__(self, source: Generator[str, None, None]) -> None:
        self._source, self._entry = source, Entry()

    def __next__(self) -> str:
        return self._alone(self._source.__next__)

    def close(self) -> None:
        """Ends the generation."""
        self._alone(self._source.close)

    def _alone(self, call: Callable[[], Any]) -> Any:
        with self._entry.inside(_waited_for):
            return call()


def _waited_for(own: bool) -> BusyError:
    return BusyError("another thread waits for a piece of this text; take its pieces in one thread at a time")
