"""The language model: embedding, pre-norm blocks, final norm, output layer; one row."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from .blocks import BlocksRow
from .layer import Row
from .rule import rms
from .window import Config, Weights

KINDS = {"m": "memory", "w": "window", "a": "attention"}


def below(w: Weights, prefix: str) -> Weights:
    """The weights under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in w.items() if name.startswith(prefix)}


def mlp(cfg: Config, w: Weights, x_D: Tensor) -> Tensor:
    """swiglu: down(silu(gate x) * up x). gelu: down(gelu(up x))."""

    def linear(name: str, z: Tensor) -> Tensor:
        return w[f"{name}.weight"] @ z + w.get(f"{name}.bias", 0)

    up = linear("up", x_D)
    hidden = silu(linear("gate", x_D)) * up if cfg["mlp"] == "swiglu" else gelu(up)
    return linear("down", hidden)


def block_configs(cfg: Config) -> list[Config]:
    """The layer's keys of each block: `layers` changes some, by number from the first or (negative) from behind the last.

    Another member without options of its own does not take over those of the one it replaces.
    """
    configs = []
    for i in range(cfg["depth"]):
        changed = {**cfg.get("layers", {}).get(str(i), {}), **cfg.get("layers", {}).get(str(i - cfg["depth"]), {})}
        for family in ("memory", "compress", "cache"):
            if changed.get(family, cfg[family]) != cfg[family]:
                changed.setdefault(f"{family}_options", {})
        configs.append({**cfg, **changed})
    return configs


def new_row(cfg: Config, w: Weights, phase: int, kind: str) -> Row:
    """The row of a layer; one with blocks has them in place of a memory."""
    return BlocksRow(cfg, w) if kind == "memory" and cfg["cache"] == "blocks" else Row(cfg, w, phase, kind)


class Reader:
    """One row of the model's state."""

    def __init__(self, cfg: Config, w: Weights, phase: int = 0):
        self.cfg, self.w = cfg, w
        pattern = cfg["pattern"].replace(" ", "")
        kinds = [KINDS[pattern[i % len(pattern)]] for i in range(cfg["depth"])]
        self.blocks = [below(w, f"blocks.{i}.") for i in range(cfg["depth"])]
        made = zip(block_configs(cfg), self.blocks, kinds, strict=True)
        self.rows = [new_row(layer, below(b, "mix."), phase, kind) for layer, b, kind in made]
        for i, row in enumerate(self.rows):
            others = [x for x in self.rows[:i] if isinstance(x, BlocksRow) and x.cfg == row.cfg]
            if isinstance(row, BlocksRow) and others:
                row.under = others[-1]
        lead = None
        for row in self.rows:
            if row.kind == "memory" and row.cfg["cache"] in ("gated", "soup", "sparse"):
                row.lead = lead if row.cfg.get("routing") == "shared" else None
                lead = lead if row.lead is not None else row

    def step(self, token: int, cut: bool = False) -> Tensor:
        """Logits [vocabulary] after the next token. cut: in every layer, the write that it is part of ends a segment."""
        eps = self.cfg["norm_eps"]
        x = self.w["embed.weight"][token]
        for block, row in zip(self.blocks, self.rows, strict=True):
            if self.cfg.get("norm") == "after":
                x = x + rms(row.step(x, cut), block["norm_mix.weight"], eps)
                x = x + rms(mlp(self.cfg, below(block, "mlp."), x), block["norm_mlp.weight"], eps)
                continue
            x = x + row.step(rms(x, block["norm_mix.weight"], eps), cut)
            x = x + mlp(self.cfg, below(block, "mlp."), rms(x, block["norm_mlp.weight"], eps))
        head = self.w["embed.weight"] if self.cfg["tie"] else self.w["unembed.weight"]
        return head @ rms(x, self.w["norm.weight"], eps)


def run(cfg: Config, w: Weights, ids: list[int], phase: int = 0, cuts: Collection[int] = ()) -> Tensor:
    """Logits [T, vocabulary] of one row life, cut at some tokens."""
    reader = Reader(cfg, w, phase)
    return torch.stack([reader.step(token, t in cuts) for t, token in enumerate(ids)])
