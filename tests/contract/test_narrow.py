"""A window that is narrowed in training, token by token: what is written, and when, stays the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ..oracle.layer import Row
from ..oracle.window import Token
from .common import PROBE, STREAM, close, feed, gradients, make_layer, named, weights

BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=6, sinks=0, position="rope", write_delay="window", compress="identity",
    rate=1, memory="gated_delta", memory_options={}, cache="gated", segment=4, start="restart", segments="constant", router_dim=4,
    gate="sigmoid", top_k=2,
)  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "delayed": {},
    "at-once": dict(write_delay=0, position="alibi"),
    "pending": dict(rate=2, compress="mean", sinks=2, position="none", kv_heads=1),
    "kept": dict(cache="exact", cache_options=dict(writes=3)),
}


class Narrow(Row):
    """A row whose window shows its last `width` tokens."""

    width = 0

    def visible(self) -> list[Token]:
        return [(j, x) for j, x in super().visible() if j > self.t - self.width]

    def whole(self) -> list[Token]:
        return super().visible()


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("keys", CASES.values(), ids=CASES)
def test_a_narrow_window_in_any_calls(keys: dict[str, Any], width: int) -> None:
    cfg = BASE | keys
    layer = make_layer(cfg)
    layer.mix.window.narrow = width

    def run(x: Tensor) -> Tensor:
        row = Narrow(cfg, w)
        row.width = width
        if row.store is not None:  # what is kept is seen once it has left the whole window
            store, beyond = row.store, row.store.beyond
            store.beyond = lambda visible: beyond(row.whole())  # type: ignore[method-assign]
        return torch.stack([row.step(token) for token in x])

    w, x = weights(layer), STREAM.clone().requires_grad_()
    want = run(x)
    dx, grads = gradients((want * PROBE).sum(), x, w)
    for calls in ([], [5], [9, 10, 11], range(1, len(STREAM))):
        y, _ = feed(layer, x[None], None, calls)
        close(y[0], want)
        at_x, at_w = gradients((y[0] * PROBE).sum(), x, named(layer))
        close(at_x, dx, "gradient of x")
        for name, grad in at_w.items():
            close(grad, grads[name], f"gradient of {name}")
    layer.mix.window.narrow = None
    assert not torch.allclose(feed(layer, x[None])[0][0], want, atol=1e-3)
