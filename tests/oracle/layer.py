"""One mixing layer, one row, one token after the other: the meaning that every fast path must equal."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from .caches import RouterScores, Store, beside, read
from .compressors import pool
from .memories import MEMORIES
from .rule import rms
from .segments import Bank
from .window import Config, Token, Weights, attend, every


class Row:
    """The state of one row. kind: "memory", "window" (no memory) or "attention" (every token stays in the window)."""

    def __init__(self, cfg: Config, w: Weights, phase: int = 0, kind: str = "memory"):
        self.cfg = cfg if kind == "memory" else {**cfg, "rate": 1, "compress_every": None, "write_delay": "window"}
        if kind == "attention":
            self.cfg = {**self.cfg, "sinks": 0}
        self.w, self.kind = w, kind
        self.t = 0
        self.lead: Row | None = None  # the row whose routing this one follows
        self.asked: RouterScores | None = None
        self.sinks: list[Token] = []
        self.window: list[Token] = []
        self.recent: list[Tensor] = []  # inputs that the short convolution still reaches, the newest first
        self.pending: list[Token] = []
        self.cuts: set[int] = set()  # tokens at which the caller cut
        self.bank = None
        self.store: Store | None = None
        self.pairs: Store | None = None
        if kind == "memory":
            self.memory = MEMORIES[cfg["memory"]](cfg, w)
            self.bank = Bank(cfg, w, self.memory, phase)
            self.store = Store(cfg["cache_options"]["writes"]) if cfg["cache"] == "exact" else None
            number = cfg.get("cache_options", {}).get("exact", 0)
            self.pairs = Store(number) if number else None

    def shift(self, offset: int) -> None:
        """Pretend that `offset` more tokens went by before what the window holds."""
        self.t += offset
        self.window = [(j + offset, x) for j, x in self.window]
        self.pending = [(j + offset, x) for j, x in self.pending]
        self.cuts = {j + offset for j in self.cuts}

    def convolved(self, x_D: Tensor) -> Tensor:
        """x_t + sum_i a_i x_{t-i}, with nothing before the row's first token: what all of the layer sees instead of x_t."""
        width = self.cfg.get("short_conv", 0)
        self.recent = [x_D, *self.recent][:width]
        return x_D + sum((a_D * x for a_D, x in zip(self.w["conv.taps"], self.recent, strict=False)), torch.zeros_like(x_D))

    def push(self, x_D: Tensor) -> None:
        """Into the window; what leaves it (without a delay: this token) joins pending; when enough are, they are written."""
        delayed = self.cfg["write_delay"] == "window"
        token = (self.t, x_D)
        if self.t < self.cfg["sinks"]:
            self.sinks.append(token)
        else:
            self.window.append(token)
            if not delayed:
                self.pending.append(token)
            if self.kind != "attention" and len(self.window) > self.cfg["window"]:
                left = self.window.pop(0)
                if delayed:
                    self.pending.append(left)
        if len(self.pending) == every(self.cfg):
            recent, r = [x for _, x in self.window], self.cfg["rate"]
            cut = any(j in self.cuts for j, _ in self.pending)
            for i in range(0, len(self.pending) if self.bank is not None else 0, r):
                tokens = self.pending[i : i + r]
                c_D = pool(self.cfg, self.w, [x for _, x in tokens], recent)
                if self.store is not None:
                    self.store.offer(self.memory.surprise(self.bank.online, c_D), tokens)
                if self.pairs is not None:
                    self.bank.begin()
                    self.pairs.offer(self.memory.surprise(self.bank.online, c_D, weigh=True), [self.memory.key_value(c_D)])
                self.bank.write(c_D, cut and i + r == len(self.pending))
            self.pending = []

    def visible(self) -> list[Token]:
        """Tokens besides the sinks that are attended to exactly. Without a delay, pending lies inside the window."""
        return self.pending + self.window if self.cfg["write_delay"] == "window" else self.window

    def step(self, x_D: Tensor, cut: bool = False) -> Tensor:
        """y [D] of the next token. cut: the write that it is part of ends a segment."""
        if cut and self.cfg.get("segments") == "content":
            self.cuts.add(self.t)
        if self.cfg.get("short_conv", 0):
            x_D = self.convolved(x_D)
        self.push(x_D)
        heads_HV = torch.zeros((), dtype=x_D.dtype)
        if self.kind == "attention" or self.cfg["window"] > 0:
            seen = self.visible()
            stored = [] if self.store is None else self.store.beyond(seen)
            heads_HV = heads_HV + attend(self.cfg, self.w, x_D, self.t, self.sinks, seen, stored)
        if self.bank is not None:
            out_HV = torch.zeros(self.memory.H, self.memory.V, dtype=x_D.dtype)
            if self.bank.count > 0:
                online, bank = self.bank.entries()
                self.asked = RouterScores(self.w, x_D, online, bank) if self.lead is None else self.lead.asked
                assert self.asked is not None
                out_HV = read(self.cfg, self.w, self.memory, x_D, online, bank, self.asked)
            heads_HV = heads_HV + rms(out_HV, self.w["norm"], 1e-6)
            if self.pairs is not None:
                heads_HV = heads_HV + beside(self.w, self.memory, x_D, [pair for *_, (pair,) in self.pairs.kept])
        self.t += 1
        return self.w["out.weight"] @ heads_HV.reshape(-1) + self.w.get("out.bias", 0)


def run(cfg: Config, w: Weights, x_TD: Tensor, phase: int = 0, kind: str = "memory", cuts: Collection[int] = ()) -> Tensor:
    """y [T, D] of one row life, cut at some tokens."""
    row = Row(cfg, w, phase, kind)
    outs = [row.step(x_D, t in cuts) for t, x_D in enumerate(x_TD)]
    return torch.stack(outs) if outs else x_TD.new_zeros(0, x_TD.shape[-1])
