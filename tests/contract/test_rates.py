"""The largest rates, where a block of tokens is much longer than the window."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from siltstone import registry

from .common import agrees, close, feed, make_layer, oracles, randn

POOLS = [name for name in registry.members("compress") if name != "identity"]


@pytest.mark.parametrize("compress,every", [*((name, None) for name in POOLS), ("mean", 128)])
def test_sixty_four_tokens_a_write(compress: str, every: int | None) -> None:
    options = dict(queries=4, context=True) if compress == "attention" else {}
    cfg: dict[str, Any] = dict(
        d_model=8, heads=1, head_dim=4, value_dim=None, window=5, sinks=1, position="rope", write_delay="window",
        compress=compress, compress_options=options, rate=64, compress_every=every, memory="gated", memory_options={},
        cache="gated", segment=every or 64, segments="constant", start="carry", gate="softmax", top_k=2,
        router="mean", router_dim=4,
    )  # fmt: skip
    layer, x, probe = make_layer(cfg), randn(150, 8, seed=6), randn(150, 8, seed=7)
    truth = oracles(cfg, layer, x, probe)
    agrees(layer, x, probe, truth, calls=[3, 68, 69, 133, 134])
    with torch.no_grad():
        late = torch.cat([torch.full((37, 8), 9.0, dtype=torch.float64), x[:113]])
        y, _ = feed(layer, torch.stack([x, late]), None, [100], mask=torch.arange(150)[None] >= torch.tensor([[0], [37]]))
        close(y[0], truth.y)
        close(y[1, 37:], truth.y[:113], "a row that begins later")
