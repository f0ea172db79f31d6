"""Finds which writes the live checkpoints hold, in real layers: the data of the pictures of docs/family.md.

A layer reads a seeded stream, each time up to one token past the end of a segment, where the segment is sealed. The tokens that a
checkpoint holds are then found by gradients: the gradient of its matrices with respect to a token is zero unless the checkpoint
holds the token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

import siltstone as st
from siltstone.bank.constant import ConstantBank

WIDTH, SEGMENT, PLACES, LONGEST = 16, 8, 4, 32
CUTS = (9, 13, 24, 30, 33, 41, 98, 105, 121, 126, 140)  # the last token of each segment; `segment` cuts the longest gap
END = 168
BUDGET = {"max_checkpoints": PLACES, "memory": "linear"}
LOGARITHMIC = {"segments": "logarithmic", "memory": "linear"}
PICTURES: dict[str, dict[str, dict[str, Any]]] = {
    "segments-constant": {'segments="constant"': {"memory": "linear"}},
    "segments-logarithmic": {
        'segments="logarithmic", start="restart"': LOGARITHMIC,
        'segments="logarithmic", start="carry"': LOGARITHMIC | {"start": "carry"},
    },
    "segments-content": {
        f'segments="content", segment={LONGEST}': {"segments": "content", "segment": LONGEST, "memory": "linear"},
    },
    "evict-age": {f'max_checkpoints={PLACES}, evict="age"': BUDGET},
    "evict-use": {f'max_checkpoints={PLACES}, evict="use"': BUDGET | {"evict": "use"}},
    "evict-merge": {
        f'max_checkpoints={PLACES}, evict="merge", start="restart"': BUDGET | {"evict": "merge"},
        f'max_checkpoints={PLACES}, evict="merge", start="carry"': BUDGET | {"evict": "merge", "start": "carry"},
    },
}


@dataclass(frozen=True)
class Block:
    """One checkpoint: it holds tokens first .. last, and exists from `since` to `until` tokens read."""

    first: int
    last: int
    since: int
    until: int


@dataclass(frozen=True)
class Life:
    """The checkpoints over a stream. ends: the tokens after which a segment was sealed; carried: see `start`."""

    ends: tuple[int, ...]
    blocks: tuple[Block, ...]
    carried: bool
    content: bool

    def live(self, tokens: int) -> list[Block]:
        """The checkpoints that exist after this number of tokens."""
        return [b for b in self.blocks if b.since <= tokens < b.until]


@cache
def lives() -> dict[str, dict[str, Life]]:
    """For every picture, the lives of every panel by its title."""
    return {name: {title: life(keys) for title, keys in panels.items()} for name, panels in PICTURES.items()}


def life(keys: dict[str, Any]) -> Life:
    """One layer's checkpoints over the stream."""
    content = keys.get("segments") == "content"
    ends, held = run(keys, tuple(t + 1 for t in CUTS) if content else ())
    blocks: list[Block] = []
    for end, until, now in zip(ends, (*ends[1:], END), held, strict=True):
        for first, last in now:
            before = [i for i, b in enumerate(blocks) if (b.first, b.last, b.until) == (first, last, end)]
            if before:
                blocks[before[0]] = replace(blocks[before[0]], until=until)
            else:
                blocks.append(Block(first, last, end, until))
    return Life(ends, tuple(blocks), keys.get("start") == "carry", content)


def run(keys: dict[str, Any], cuts: tuple[int, ...]) -> tuple[tuple[int, ...], list[list[tuple[int, int]]]]:
    """The tokens after which the layer sealed, and after each of them the first and last token of each live checkpoint.

    cuts: tokens after which segments end; (): they end when they are full.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        layer = st.MemoryCaching(WIDTH, **{"heads": 2, "window": 0, "write_delay": 0, "segment": SEGMENT, "router_dim": 8} | keys)
        x = torch.randn(1, END, WIDTH, requires_grad=True)
    cut = torch.zeros(1, END, dtype=torch.bool)
    cut[0, [c - 1 for c in cuts]] = True
    state, ends, held, at, before = layer.init_state(1), [], [], 0, 0
    while at + (more := 1 if cuts or not at else SEGMENT) <= END:  # a token past a segment's end seals it
        state = layer(x[:, at : at + more], state, cut=cut[:, at : at + more] if cuts else None)[1]
        at += more
        sealed = int(layer.mix.geo.sealed(state.positions)[0])
        if sealed > before:
            before = sealed
            ends.append(at - 1)
            held.append(spans(state.layers[0].bank, x))  # pyright: ignore[reportAttributeAccessIssue]
    return tuple(ends), held


def spans(bank: Any, x: torch.Tensor) -> list[tuple[int, int]]:
    """First and last token that each checkpoint holds; a gap between them is an error."""
    matrices = bank.store.views()[0] if isinstance(bank, ConstantBank) else bank.factors[0]
    out = []
    for n in range(matrices.shape[2]):
        if not matrices[:, :, n].requires_grad:
            continue
        grad = torch.autograd.grad(matrices[:, :, n].sum(), x, retain_graph=True, allow_unused=True)[0]
        tokens = [] if grad is None else grad[0].abs().sum(-1).nonzero().flatten().tolist()
        if tokens:
            assert tokens == list(range(tokens[0], tokens[-1] + 1)), tokens
            out.append((tokens[0], tokens[-1]))
    return sorted(out, key=lambda span: span[1])
