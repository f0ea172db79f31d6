"""Claims on memory that several holders share and that only grows."""

from __future__ import annotations

import threading
from typing import Any


class Claims:
    """How far shared memory is claimed. A holder claims the place behind its own entries, and writes there only then.

    A claim that is not followed by a write is harmless: the next holder moves to memory of its own.
    """

    def __init__(self, at: Any):
        self._at, self._lock = at, threading.Lock()

    def claim(self, seen: Any, after: Any) -> bool:
        """Claim from `seen` up to `after`; False where another holder has claimed what is behind `seen`."""
        with self._lock:
            if self._at != seen:
                return False
            self._at = after
            return True

    def __reduce__(self) -> Any:
        """A copy has a lock of its own."""
        return Claims, (self._at,)
