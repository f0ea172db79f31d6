"""What questions and turns cost: tokens, times, and the size of the session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .receipt import Counted, Timeline, human


@dataclass
class Usage:
    """Tokens that were read and written, and the seconds of each. Times are those of this process."""

    read: int = 0
    written: int = 0
    reading: Timeline = field(default_factory=Timeline)
    writing: Timeline = field(default_factory=Timeline)

    @contextmanager
    def measured(self, session: Counted, writing: bool = False) -> Iterator[None]:
        """Counts the tokens that a session appends in the block, and the time, also if the block is left by an error."""
        before, began = session.counters.appended, time.perf_counter()
        try:
            yield
        finally:
            self.add(session.counters.appended - before, time.perf_counter() - began, writing)

    def add(self, tokens: int, seconds: float, writing: bool = False) -> None:
        """Counts tokens."""
        (self.writing if writing else self.reading).add(tokens, seconds)
        if writing:
            self.written += tokens
        else:
            self.read += tokens

    def to_dict(self, session: Counted) -> dict[str, Any]:
        """Ready for JSON. Sizes are in bytes."""
        return {
            "position": session.position,
            "tokens_read": self.read,
            "tokens_written": self.written,
            "restored": session.counters.restored,
            "recomputed": session.counters.recomputed,
            "ms_per_token_read": self.reading.ms_per_token(1),
            "ms_per_token_written": self.writing.ms_per_token(1),
            "session_bytes": session.nbytes,
        }

    def rows(self, session: Counted) -> list[tuple[str, str]]:
        """Names and values for people."""
        counters, times = session.counters, (self.reading.ms_per_token(1), self.writing.ms_per_token(1))
        read, written = ("-" if ms is None else f"{ms:.3f}" for ms in times)
        tokens = f"{self.read:,} read, {self.written:,} written, {counters.restored:,} restored"
        return [
            ("tokens", f"{tokens}, {counters.recomputed:,} recomputed"),
            ("ms a token", f"{read} read, {written} written"),
            ("position", f"{session.position:,}"),
            ("session", human(session.nbytes)),
        ]
