"""Full causal attention with a growing key-value cache: the transformer's layer, for hybrids and for comparison.

Source: arXiv 1706.03762, eq. 1; rotary positions or linear biases.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops import alibi, attention, rope
from ..ops.eager import eagerly
from ..schedule.call import Geometry
from ..schedule.context import Context
from ..schedule.packed import RowPositions
from ..state.tree import Store
from .context import StepContext
from .heads import Heads
from .linear import linear
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

    def reserved(self, active: np.ndarray) -> Self:
        """See MixState."""
        return replace(self, cache=self.cache.reserve(active.astype(np.int64)))

    def roomy(self, mixer: Any) -> Self:
        """See MixState."""
        cache = self.cache.roomy()
        return self if cache is self.cache else replace(self, cache=cache)

    @property
    def room(self) -> int:
        """See MixState."""
        return self.cache.room

    def sized(self, mixer: Any, positions: RowPositions) -> Self:
        """See MixState."""
        return replace(self, cache=self.cache.sized(positions.position))

    def fits(self, mixer: Any, positions: RowPositions) -> bool:
        """See MixState."""
        return bool((self.cache.count == positions.position).all())


class Attention(nn.Module):
    """softmax(scale q k^T) v over all tokens so far. x [R, T, D] -> y [R, T, D]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.cfg = cfg
        self.conv = ShortConv(cfg)
        self.window = Heads(cfg)
        self.out = linear(cfg.heads * cfg.val_dim, cfg.d_model, cfg.out_bias)

    def init(self, batch: int) -> AttentionState:
        """An empty cache."""
        cfg, like = self.cfg, self.window.like
        key, value = (like.new_zeros(batch, cfg.key_heads, 0, width) for width in (cfg.key_dim, cfg.val_dim))
        return AttentionState(Store.empty((key, value), (2, 2)), self.conv.init(batch))

    def step(self, x: Tensor, state: AttentionState, context: StepContext, empty: Tensor | None) -> tuple[Tensor, AttentionState]:
        """One token of each row, x [B, 1, D]; the cache has room for it, and counts it."""
        cfg, position = self.cfg, context.position[:, None]
        x, conv = self.conv.step(x, state.conv, context)
        asked, v = self.window.project(x)
        if cfg.position == "rope":
            asked = rope.rotate(asked, context.rotation(cfg.key_dim, cfg.base))
        q, k = asked.transpose(1, 2).split([cfg.heads, cfg.key_heads], 1)
        cache = state.cache.put(context.rows, context.position, (k[:, :, 0], v[:, 0]), context.active, context.inplace)
        keys, values = cache.views(context.longest) if context.longest is not None else cache.leaves
        place = torch.arange(keys.shape[2], device=x.device)
        bias = torch.zeros(len(x), len(place), dtype=x.dtype, device=x.device).masked_fill(place > position, float("-inf"))
        bias = bias[:, None, None]
        if cfg.position == "alibi":
            bias = bias + alibi.biases((position - place)[:, None], cfg.heads, x.dtype)
        out = self.window.attend(q, keys, values, bias)
        return self.out(out.transpose(1, 2).flatten(2)), AttentionState(cache, conv)

    @eagerly
    def forward(
        self, x: Tensor, state: AttentionState, context: Context | StepContext, empty: Tensor | None = None
    ) -> tuple[Tensor, AttentionState]:
        """One call over runs; with a StepContext, `step`."""
        if isinstance(context, StepContext):
            return self.step(x, state, context, empty)
        cfg, packed = self.cfg, context.packed
        x, conv = self.conv(x, state.conv, packed)
        asked, v = self.window.project(x)
        if cfg.position == "rope":
            asked = rope.rotate(asked, context.window(PLAIN, x.dtype).angles(cfg.key_dim, cfg.base))
        q, k = asked.transpose(1, 2).split([cfg.heads, cfg.key_heads], 1)
        v = v.transpose(1, 2)
        after = state.cache.append((k, v), packed.length)
        start = state.cache.count
        start = start[:1] if (start == start[:1]).all() else start
        fresh = not state.cache.width
        keys, values = (k, v) if fresh else after.views()
        if cfg.position == "alibi":
            out = attention.biased(q, keys, values, start, cfg.scale)
        elif fresh:
            out = self.window.attend(q, k, v, None, causal=True)
        else:
            out = self.window.attend(q, keys, values, attention.earlier(start, packed.width, keys))
        return self.out(out.transpose(1, 2).flatten(2)), AttentionState(after, conv)
