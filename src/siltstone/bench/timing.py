"""Interleaved timing: every contender runs once a round, so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of the table.

    claim      what is measured
    ours       median ms (or bytes) of this library, `peer` of the other side; None where a side does not exist
    ratio      how many times better ours is (above 1: ours is)
    target     the ratio aimed at; for `at_most`, a ceiling on the ratio instead
    prototype  the ratio that the formulation reached before it was a library, on another machine
    note       what to know about the figure
    more       further figures of the row, for the JSON alone
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

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None where there is nothing to compare."""
        if self.ratio is None or self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    @property
    def verdict(self) -> str:
        """How the row stands, in words."""
        if self.reached or self.reached is None or self.at_most or self.prototype is None:
            return {True: "reached", False: "missed", None: ""}[self.reached]
        assert self.ratio is not None
        return "as the prototype" if self.ratio >= 0.8 * self.prototype else "below the prototype"


def interleaved(contenders: dict[str, Callable[[], Any]], rounds: int, warm: int = 1, least_ms: float = 60.0) -> dict[str, float]:
    """Median wall milliseconds of each contender's call, over `rounds` rounds after `warm` uncounted ones.

    In a round a short contender is called again until `least_ms` have passed: what is asked for is its time in use,
    not that of a first call after another contender has had caches and threads to itself for seconds. A warming call of
    more than five seconds counts: it has warmed itself.
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
