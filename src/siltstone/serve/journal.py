"""One line a request on standard error: when, what, how long, how many tokens. Never text, ids of things, or keys.

The lines are written by a thread of their own: a reader that is slow, or gone, delays no request. Lines are lost if 1,000 wait.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from contextlib import suppress
from typing import Any

HELD = 1000  # lines that wait, at most
FORMS = ("plain", "json", "none")


class Journal:
    """form: "json", "plain" or "none". handle: the descriptor that lines go to."""

    def __init__(self, form: str = "none", handle: int = 2) -> None:
        self._form, self._handle, self.lost = form, handle, 0
        self._lines: queue.Queue[str | None] = queue.Queue(HELD)
        self._thread = threading.Thread(target=self._write, name="siltstone-journal", daemon=True)
        if form != "none":
            self._thread.start()

    def add(self, line: dict[str, Any]) -> None:
        """One line; `time` stands before the given names."""
        if self._form == "none":
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        if self._form == "json":
            text = json.dumps({"time": stamp} | line)
        else:
            text = " ".join([stamp, *(f"{name}={_plain(value)}" for name, value in line.items())])
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            self.lost += 1

    def close(self, seconds: float = 1.0) -> None:
        """Write the lines that wait; those that nobody takes in time are lost."""
        if self._thread.is_alive():
            with suppress(queue.Full):
                self._lines.put(None, timeout=seconds)
            self._thread.join(seconds)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError):
                os.write(self._handle, line.encode("ascii", "backslashreplace") + b"\n")


def _plain(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


class Counts:
    """What one request did: tokens that were read, reused and written, and seconds in the queue."""

    def __init__(self) -> None:
        self.read = self.reused = self.written = 0
        self.waited = 0.0

    @property
    def line(self) -> dict[str, Any]:
        """As a part of a line."""
        return {"waited": round(self.waited, 4), "read": self.read, "reused": self.reused, "written": self.written}
