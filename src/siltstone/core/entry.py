"""One call at a time, also if the handler of a signal raises an exception at any place.

Python may raise it between any two instructions, so that a lock taken by one call, and released in a `finally` behind it, can
stay locked for ever. Here only `with lock:` takes locks, for a moment, and who is inside is a value that `finally` compares: no
exception comes between the instructions of these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Entry:
    """Lets one call in at a time, and waits for nothing."""

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._inside: list[int] | None = None

    @contextmanager
    def inside(self, busy: Callable[[bool], Exception]) -> Iterator[None]:
        """Raise `busy(own)` if a call is inside. own: it is one of this thread."""
        me = [threading.get_ident()]
        try:
            with self._gate:
                found = self._inside
                if found is None:
                    self._inside = me
            if found is not None:
                raise busy(found == me)
            yield
        finally:
            if self._inside is me:
                self._inside = None
