"""Lengths at which scans work in several blocks, with their own block sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .common import agrees, close, feed, make_layer, oracles, randn
from .grid import INNER, MEMORIES, inner

LONG: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=2, position="rope", write_delay="window",
    compress="identity", rate=1, cache="gated", segment=150, segments="constant", start="carry", gate="softmax", top_k=2,
    router="mean", router_dim=4,
)  # fmt: skip


@pytest.mark.parametrize("memory,rate", [*((memory, 1) for memory in MEMORIES), ("gated", 3), *((memory, 2) for memory in INNER)])
def test_many_writes_in_a_segment(memory: str, rate: int) -> None:
    """Several blocks of writes in a segment, and a segment longer than one."""
    cfg = LONG | dict(memory=memory, memory_options=inner(memory, batch=16, expansion=1, inner_lr=0.3))
    if rate > 1:
        cfg |= dict(rate=rate, compress="mean", segment=33 * rate, start="restart")
    cfg |= dict(position=["rope", "alibi", "none"][MEMORIES.index(memory) % 3])
    layer, x, probe = make_layer(cfg), randn(140, 8, seed=4), randn(140, 8, seed=5)
    truth = oracles(cfg, layer, x, probe)
    agrees(layer, x, probe, truth)
    want = truth.y
    with torch.no_grad():
        close(feed(layer, x[None], None, [1, 67, 131])[0][0], want)
        late = torch.cat([torch.full((5, 8), 9.0, dtype=torch.float64), x[:135]])  # two rows out of step, more than one block
        mask = torch.arange(140)[None] >= torch.tensor([[0], [5]])
        y, _ = layer(torch.stack([x, late]), mask=mask)
        close(y[0], want)
        close(y[1, 5:], want[:135], "a row that begins later")
