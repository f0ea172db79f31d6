"""Full causal attention with a growing key-value cache: the transformer's layer, for hybrids and for comparison.

Source: arXiv 1706.03762, eq. 1; rotary positions or linear biases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import attention, rope
from ..ops.eager import eagerly
from ..schedule.call import Geometry
from ..schedule.context import Context
from ..schedule.packed import RowPositions
from ..state.tree import Store
from .heads import Heads
from .short_conv import ShortConv
from .state import MixState

PLAIN = Geometry(window=1, sinks=0, delay=1, rate=1)


@dataclass
class AttentionState(MixState):
    """cache: key [B, J, N, K] (rotated) and value [B, J, N, V] of every token so far; conv [B, width - 1, D]."""

    narrow: ClassVar[tuple[str, ...]] = ("cache", "conv")

    cache: Store
    conv: Tensor | None = None

    def parts(self) -> dict[str, int]:
        """See MixState."""
        return {"attention": self.cache.nbytes, "window": self.nbytes - self.cache.nbytes}

    def sized(self, mixer: Any, positions: RowPositions) -> Self:
        """See MixState."""
        return replace(self, cache=self.cache.sized(positions.position))

    def fits(self, mixer: Any, positions: RowPositions) -> bool:
        """See MixState."""
        return bool((self.cache.count == positions.position).all())


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K)) v over all tokens so far. x [R, T, D] -> y [R, T, D]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.cfg = cfg
        self.conv = ShortConv(cfg)
        self.window = Heads(cfg)
        self.out = nn.Linear(cfg.heads * cfg.val_dim, cfg.d_model, bias=False)

    def init(self, batch: int) -> AttentionState:
        """An empty cache."""
        cfg, like = self.cfg, self.window.like
        key, value = (like.new_zeros(batch, cfg.key_heads, 0, width) for width in (cfg.key_dim, cfg.val_dim))
        return AttentionState(Store.empty((key, value), (2, 2)), self.conv.init(batch))

    @eagerly
    def forward(self, x: Tensor, state: AttentionState, context: Context) -> tuple[Tensor, AttentionState]:
        """One call over runs."""
        cfg, packed = self.cfg, context.packed
        x, conv = self.conv(x, state.conv, packed)
        asked, v = self.window.project(x)
        if cfg.position == "rope":
            asked = rope.rotate(asked, context.window(PLAIN, x.dtype).angles(cfg.key_dim))
        q, k = asked.transpose(1, 2).split([cfg.heads, cfg.key_heads], 1)
        v = v.transpose(1, 2)
        after = state.cache.append((k, v), packed.length)
        start = state.cache.count
        start = start[:1] if (start == start[:1]).all() else start
        fresh = not state.cache.width
        keys, values = (k, v) if fresh else after.views()
        if cfg.position == "alibi":
            out = attention.biased(q, keys, values, start, cfg.key_dim**-0.5)
        elif fresh:
            out = self.window.attend(q, k, v, None, causal=True)
        else:
            out = self.window.attend(q, keys, values, attention.earlier(start, packed.width, keys))
        return self.out(out.transpose(1, 2).flatten(2)), AttentionState(after, conv)
