"""Which writes belong together: segments, cuts, the spans of segments that stay live, and what a budget leaves of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rule import Matrix, State, l2
from .window import Config, Weights, every

Span = tuple[int, int]  # segments a .. b-1
Blocks = list[list[Tensor]]  # routing keys [U], by sub-block


@dataclass
class Entry:
    """What can be read: its weights, routing keys by sub-block, distance in segments, and how much it was read so far."""

    leaves: State
    blocks: Blocks
    age: int
    last: int = 0
    span: int = 1
    mass: float = 0.0
    reads: int = 0


def live_spans(sealed: int, kind: str) -> list[Span]:
    """Spans kept after `sealed` segments, oldest first. logarithmic: the binary digits of `sealed`; else every one."""
    if kind != "logarithmic":
        return [(i, i + 1) for i in range(sealed)]
    spans, start = [], 0
    for power in reversed(range(sealed.bit_length())):
        if sealed & (1 << power):
            spans.append((start, start + (1 << power)))
            start += 1 << power
    return spans


def fold(older: Blocks, newer: Blocks) -> Blocks:
    """The sub-blocks of two spans, neighbours together, so that there are as many as before."""
    both = older + newer
    return [both[i] + both[i + 1] for i in range(0, len(both), 2)]


def kept(leaves: State, kind: str) -> State:
    """As a checkpoint keeps them; gradients as if nothing was rounded.

    int8: 255 steps between -max and max of a row of a matrix; the vector by which its answers are divided stays as it is.
    """
    out = []
    for i, x in enumerate(leaves):
        y = x.detach()
        if kind == "bfloat16":
            y = y.to(torch.bfloat16).to(x.dtype)
        if kind == "int8" and not (i and x.dim() == 2):
            step = y.abs().max(dim=-1, keepdim=True).values / 127
            y = torch.where(step > 0, torch.round(y / step) * step, torch.zeros_like(y))
        out.append(x + (y - x).detach() if kind != "float32" else x)
    return tuple(out)


class Bank:
    """The online memory, the writes of every segment, and the checkpoints recomputed from them (or, with a budget, kept)."""

    def __init__(self, cfg: Config, w: Weights, memory: Matrix, phase: int = 0):
        self.cfg, self.w, self.memory = cfg, w, memory
        self.phase = phase * every(cfg) // cfg["rate"]  # in writes
        self.length = cfg["segment"] // cfg["rate"]
        router = cfg.get("router", "mean")
        self.block = int(router.split(":")[1]) // cfg["rate"] if router.startswith("subblock") else self.length
        self.count = 0
        self.ended = False  # the last write was the last one of its segment
        self.online = memory.init()
        self.segments: list[list[Tensor]] = [[]]
        self.keys: list[Blocks] = [self.empty()]  # the routing keys of every segment
        self.ends: list[State] = []  # the online state at the end of every sealed segment
        self.folded: dict[Span, State] = {}
        self.budget: list[Entry] = []

    def empty(self) -> Blocks:
        """No keys yet."""
        return [[] for _ in range(self.length // self.block)]

    def begin(self) -> None:
        """If the segment is full, or was cut, seal it and begin the next."""
        full = self.length - self.phase if len(self.segments) == 1 else self.length
        if self.cfg["cache"] not in ("none", "exact") and (self.ended or len(self.segments[-1]) == full):
            self.ends.append(self.online)
            self.seal()
            self.segments.append([])
            self.keys.append(self.empty())
            self.online = self.memory.init() if self.cfg["start"] == "restart" else self.memory.cut(self.online)
            self.ended = False

    def write(self, c_D: Tensor, cut: bool = False) -> None:
        """One more write, into a new segment where the last one has ended. cut: this write ends its segment."""
        self.begin()
        self.segments[-1].append(c_D)
        if "router.key.weight" in self.w and "router.anchor" not in self.w:
            place = len(self.segments[-1]) - 1 + (self.phase if len(self.segments) == 1 else 0)
            place = place if self.cfg["cache"] != "none" else 0
            self.keys[-1][place // self.block].append(l2(self.w["router.key.weight"] @ c_D))
        self.online = self.memory.write(self.online, c_D)
        self.count += 1
        self.ended = cut

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

    def read(self, state: State, written: Blocks) -> Blocks:
        """The routing keys of a state: those that are written, or one for each anchor, made of what the state answers to it."""
        if "router.anchor" not in self.w:
            return written
        answers = [self.memory.read(self.memory.leaves(state), anchor_D).reshape(-1) for anchor_D in self.w["router.anchor"]]
        return [[l2(self.w["router.key.weight"] @ answer)] for answer in answers]

    def blocks(self, span: Span) -> Blocks:
        """Routing keys of a span of 1, 2, 4 ... segments: the sub-blocks of its halves, neighbours together."""
        a, b = span
        if b - a == 1:
            return self.keys[a]
        middle = (a + b) // 2
        return fold(self.blocks((a, middle)), self.blocks((middle, b)))

    def seal(self) -> None:
        """With a budget: keep the segment that ends here; if that is one too many, something goes."""
        most = self.cfg.get("max_checkpoints")
        if most is None:
            return
        number = len(self.ends) - 1
        keys = self.read(self.ends[-1], self.keys[-1])
        self.budget.append(Entry(self.stored(self.ends[-1]), keys, 0, last=number))
        if len(self.budget) <= most:
            return
        if self.cfg["evict"] == "age":
            del self.budget[0]
        if self.cfg["evict"] == "use":
            rates = [e.mass / max(e.reads, 1) for e in self.budget[:-1]]
            del self.budget[rates.index(min(rates))]
        if self.cfg["evict"] == "merge":
            spans = [a.span + b.span for a, b in zip(self.budget[:-1], self.budget[1:], strict=True)]
            i = spans.index(min(spans))
            self.budget[i : i + 2] = [self.merged(*self.budget[i : i + 2])]

    def merged(self, older: Entry, newer: Entry) -> Entry:
        """restart: what both have written adds up, on top of the initial state. carry: the newer state holds the older one's."""
        leaves = newer.leaves
        if self.cfg["start"] == "restart":
            first = self.memory.leaves(self.memory.init())
            sums = [w + (a - w) + (b - w) for a, b, w in zip(older.leaves, newer.leaves, first, strict=True)]
            leaves = kept(self.memory.settled(tuple(sums)), self.cfg.get("checkpoint_dtype", "float32"))
        return Entry(leaves, fold(older.blocks, newer.blocks), 0, last=newer.last, span=older.span + newer.span)

    def stored(self, state: State) -> State:
        """What a checkpoint keeps of a state."""
        return kept(self.memory.leaves(state), self.cfg.get("checkpoint_dtype", "float32"))

    def entries(self) -> tuple[Entry, list[Entry]]:
        """The online memory and the live checkpoints, oldest first."""
        sealed = len(self.ends)
        online = Entry(self.memory.leaves(self.online), self.read(self.online, self.keys[sealed]), 0)
        if self.cfg.get("max_checkpoints") is not None:
            for entry in self.budget:
                entry.age = sealed - entry.last
            return online, self.budget
        spans = live_spans(sealed, self.cfg["segments"])
        found = [(s, self.checkpoint(s)) for s in spans]
        return online, [Entry(self.stored(x), self.read(x, self.blocks(s)), sealed - s[1] + 1) for s, x in found]
