"""Objects that a session returns: marks for `rollback`, and the pieces of a generated text."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from torch import Tensor

from ..core.entry import Entry
from ..errors import BusyError
from ..models.streaming import StreamingState


class Mark:
    """A saved point of a session, from `Session.snapshot`. It takes one copy of the session's small parts until the last
    reference to it is gone or `release()` is called. The session keeps its ids from the oldest live mark on."""

    def __init__(self, position: int, state: StreamingState, logits: Tensor | None, sampler: Tensor) -> None:
        self.position = position
        self._state: StreamingState | None = state
        self._logits = logits
        self._sampler = sampler

    @property
    def live(self) -> bool:
        """Whether a session can still roll back to it."""
        return self._state is not None

    def release(self) -> None:
        """Free its memory; `rollback` to it then raises PositionError."""
        self._state = self._logits = None

    def __repr__(self) -> str:
        return f"Mark(position={self.position}{'' if self.live else ', released'})"


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
