"""What a session hands out: marks to go back to, and the pieces of a text that it writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from torch import Tensor

from ..errors import BusyError
from ..models.streaming import StreamingState


class Mark:
    """A moment of a session, from `Session.snapshot`. It costs one copy of the session's small parts, until nobody
    refers to it any more or `release()` is called; from the oldest live mark on, the session keeps its ids."""

    def __init__(self, position: int, state: StreamingState, logits: Tensor | None, sampler: Tensor) -> None:
        self.position = position
        self._state: StreamingState | None = state
        self._logits = logits
        self._sampler = sampler

    @property
    def live(self) -> bool:
        """Whether a session can still go back to it."""
        return self._state is not None

    def release(self) -> None:
        """Give its memory back; it cannot be gone back to any more."""
        self._state = self._logits = None

    def __repr__(self) -> str:
        return f"Mark(position={self.position}{'' if self.live else ', released'})"


class Pieces(Iterator[str]):
    """What `Session.generate` gives out, one after the other; BusyError while another thread waits for one."""

    def __init__(self, source: Generator[str, None, None]) -> None:
        self._source, self._entered = source, threading.Lock()

    def __next__(self) -> str:
        return self._alone(self._source.__next__)

    def close(self) -> None:
        """No more pieces are made."""
        self._alone(self._source.close)

    def _alone(self, call: Callable[[], Any]) -> Any:
        if not self._entered.acquire(blocking=False):
            raise BusyError("another thread waits for a piece of this text; ask for its pieces from one thread at a time")
        try:
            return call()
        finally:
            self._entered.release()
