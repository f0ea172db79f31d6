"""The largest rates, where a block of tokens is much longer than the window."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from siltstone.config import registry

from .common import agrees, close, feed, make_layer, oracles, randn

LAYER: dict[str, Any] = dict(
    d_model=8, heads=1, head_dim=4, value_dim=None, window=5, sinks=1, position="rope", write_delay="window",
    compress="mean", compress_options={}, rate=64, compress_every=None, memory="gated", memory_options={},
    cache="gated", segment=64, segments="constant", start="carry", gate="softmax", top_k=2,
    router="mean", router_dim=4,
)  # fmt: skip
POOLS = [name for name in registry.members("compress") if name != "identity"]


@pytest.mark.parametrize("compress,every", [*((name, None) for name in POOLS), ("mean", 128)])
def test_sixty_four_tokens_a_write(compress: str, every: int | None) -> None:
    options = dict(queries=4, context=True) if compress == "attention" else {}
    cfg = LAYER | dict(compress=compress, compress_options=options, compress_every=every, segment=every or 64)
    layer, x, probe = make_layer(cfg), randn(150, 8, seed=6), randn(150, 8, seed=7)
    truth = oracles(cfg, layer, x, probe)
    agrees(layer, x, probe, truth, calls=[3, 68, 69, 133, 134])
    with torch.no_grad():
        late = torch.cat([torch.full((37, 8), 9.0, dtype=torch.float64), x[:113]])
        y, _ = feed(layer, torch.stack([x, late]), None, [100], mask=torch.arange(150)[None] >= torch.tensor([[0], [37]]))
        close(y[0], truth.y)
        close(y[1, 37:], truth.y[:113], "a row that begins later")


@pytest.mark.parametrize(
    "keys,length,calls",
    [
        (dict(window=7, sinks=2, rate=8, segment=8), 146, [10]),
        (dict(window=63, sinks=4), 270, []),
    ],
    ids=["rate 8", "rate 64"],
)
def test_sinks_recede_beyond_a_window_that_is_short_of_a_write(keys: dict[str, Any], length: int, calls: list[int]) -> None:
    """Written at once, tokens leave the ring before the sinks have come to their last distance; a call is blocks of 128."""
    cfg = LAYER | dict(position="alibi", write_delay=0) | keys
    layer, x, probe = make_layer(cfg), randn(length, 8, seed=6), randn(length, 8, seed=7)
    truth, every = oracles(cfg, layer, x, probe), cfg["rate"]
    agrees(layer, x, probe, truth, calls=calls)
    with torch.no_grad():
        late = torch.cat([torch.full((every, 8), 9.0, dtype=torch.float64), x[:-every]])
        mask = torch.arange(length)[None] >= torch.tensor([[0], [every]])
        y, _ = feed(layer, torch.stack([x, late]), None, [c + every for c in calls], mask=mask)
        close(y[0], truth.y)
        close(y[1, every:], truth.y[:-every], "a row that begins a write later")
