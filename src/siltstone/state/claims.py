"""Claims on memory that several holders share and that only grows."""

from __future__ import annotations

import threading
from typing import Any


class Claims:
    """Marks how much of a shared memory is claimed. A holder claims the place after its own entries before it writes there.

    A claim without a write is harmless: the next holder allocates its own memory.
    """

    def __init__(self, at: Any):
        self._at, self._lock = at, threading.Lock()

    def claim(self, seen: Any, after: Any) -> bool:
        """Claim from `seen` up to `after`; False if another holder has already claimed the place after `seen`."""
        with self._lock:
            if self._at != seen:
                return False
            self._at = after
            return True

    def __reduce__(self) -> Any:
        """A copy has its own lock."""
        return Claims, (self._at,)
