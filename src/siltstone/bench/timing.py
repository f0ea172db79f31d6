"""Interleaved timing: every contender runs once a round, so that drifts in the machine's speed affect all contenders alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row of the table.

    claim      what is measured
    ours       median ms (or bytes) of this library; `peer`: that of the other side; None if a side does not exist
    ratio      how many times better this library is (above 1: this library is better)
    target     the target of the ratio; with `at_most`, an upper limit of the ratio
    prototype  the ratio of the prototype, on another machine
    note       a remark on the figure
    more       further figures of the row, only in the JSON
    """

    claim: str
    threads: int
    dtype: str
    ours: float | None
    peer: float | None
    ratio: float | None
    target: float | None
    prototype: float | None = None
    unit: str = "ms"
    at_most: bool = False
    note: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def versus(
        cls, claim: str, threads: int, dtype: str, ms: tuple[float, float], target: float | None, prototype: float | None
    ) -> Row:
        """A row of two measured times, ours and the peer's."""
        return cls(claim, threads, dtype, *ms, ratio=ms[1] / ms[0], target=target, prototype=prototype)

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None if there is nothing to compare."""
        if self.ratio is None or self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    @property
    def verdict(self) -> str:
        """The result of the row in words."""
        if self.reached or self.reached is None or self.at_most or self.prototype is None:
            return {True: "reached", False: "missed", None: ""}[self.reached]
        assert self.ratio is not None
        return "as the prototype" if self.ratio >= 0.8 * self.prototype else "below the prototype"


def interleaved(contenders: dict[str, Callable[[], Any]], rounds: int, warm: int = 1, least_ms: float = 60.0) -> dict[str, float]:
    """Median wall milliseconds of each contender's call, over `rounds` rounds after `warm` rounds that are not counted.

    In a round, a short contender is called repeatedly for at least `least_ms`: its time in steady use is measured, not that of
    a first call after another contender has used caches and threads for seconds. A warm-up call of more than five seconds is
    counted too.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(warm + rounds):
        for name, run in contenders.items():
            spent = -1.0
            while spent < least_ms:
                start = time.perf_counter()
                run()
                last = (time.perf_counter() - start) * 1e3
                spent = max(spent, 0.0) + last
                if round_ >= warm or last > 5000:
                    taken[name].append(last)
    return {name: statistics.median(times) for name, times in taken.items()}
