"""Which writes belong together: segments, cuts, and the spans of segments that stay live."""

from __future__ import annotations

import torch
from torch import Tensor

from .memories import Matrix, State, l2
from .window import Config, Weights

Span = tuple[int, int]  # segments a .. b-1
Entry = tuple[State, Tensor | None]  # what a read needs, and its routing summary [R]


def live_spans(sealed: int, kind: str) -> list[Span]:
    """Spans kept after `sealed` segments, oldest first. constant: every one; logarithmic: the binary digits of `sealed`."""
    if kind == "constant":
        return [(i, i + 1) for i in range(sealed)]
    spans, start = [], 0
    for power in reversed(range(sealed.bit_length())):
        if sealed & (1 << power):
            spans.append((start, start + (1 << power)))
            start += 1 << power
    return spans


class Bank:
    """The online memory, the writes of every segment, and the checkpoints recomputed from them."""

    def __init__(self, cfg: Config, w: Weights, memory: Matrix, phase: int = 0):
        self.cfg, self.w, self.memory = cfg, w, memory
        self.phase = phase
        self.count = 0
        self.online = memory.init()
        self.segments: list[list[Tensor]] = [[]]
        self.keys: list[list[Tensor]] = [[]]  # the routing key of every write
        self.ends: list[State] = []  # the online state at the end of every sealed segment
        self.folded: dict[Span, State] = {}

    def write(self, c_D: Tensor) -> None:
        """If the segment is full, seal it and begin the next; then write."""
        length = self.cfg["segment"] // self.cfg["rate"]
        full = length - self.phase if len(self.segments) == 1 else length
        if self.cfg["cache"] != "none" and len(self.segments[-1]) == full:
            self.ends.append(self.online)
            self.segments.append([])
            self.keys.append([])
            self.online = self.memory.init() if self.cfg["start"] == "restart" else self.memory.cut(self.online)
        self.segments[-1].append(c_D)
        if "router.key.weight" in self.w:
            self.keys[-1].append(l2(self.w["router.key.weight"] @ c_D))
        self.online = self.memory.write(self.online, c_D)
        self.count += 1

    def checkpoint(self, span: Span) -> State:
        """restart: from the initial state, all writes of the span, segment by segment. carry: the state at the span's end."""
        a, b = span
        if self.cfg["start"] == "carry":
            return self.ends[b - 1]
        if span not in self.folded:
            state = self.memory.init()
            for segment in self.segments[a:b]:
                state = self.memory.cut(state)
                for c_D in segment:
                    state = self.memory.write(state, c_D)
            self.folded[span] = state
        return self.folded[span]

    def summary(self, span: Span) -> Tensor | None:
        """Mean routing key of the span's writes."""
        keys = [key for segment in self.keys[span[0] : span[1]] for key in segment]
        return torch.stack(keys).mean(0) if keys else None

    def entries(self) -> tuple[Entry, list[Entry]]:
        """The online memory and the live checkpoints, oldest first."""
        sealed = len(self.ends)
        leaves = self.memory.leaves
        online = leaves(self.online), self.summary((sealed, sealed + 1))
        live = live_spans(sealed, self.cfg["segments"])
        return online, [(leaves(self.checkpoint(span)), self.summary(span)) for span in live]
