"""Exact causal attention over the last `window` tokens, tokens pending compression, and sinks.

The ring holds the last E tokens of each row at slot position % E. A call concatenates ring and new tokens, splits the
queries into blocks and lets each block attend to its own tokens and the E before them. Softmax attention, eq. 1 of
arXiv 1706.03762; the window as in arXiv 2004.05150; sinks as in arXiv 2309.17453 (a sink's distance stops growing when
it leaves the window). Positions: rotary, or linear biases (arXiv 2108.12409); both use the same sink distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..ops import alibi, rope, window
from ..schedule.call import Geometry
from ..schedule.context import Context
from ..schedule.step import Turn
from ..schedule.window import WindowSchedule
from ..state.tree import State
from .context import StepContext, put
from .heads import Heads


@dataclass
class WindowState(State):
    """key [B, E, J, K] (rotated), value [B, E, J, V]: the ring; sink_key [B, sinks, J, K], sink_value: the sinks."""

    narrow: ClassVar[tuple[str, ...]] = ("key", "value", "sink_key", "sink_value")
    rings: ClassVar[tuple[str, ...]] = ("key", "value")

    key: Tensor
    value: Tensor
    sink_key: Tensor | None = None
    sink_value: Tensor | None = None


@dataclass(frozen=True)
class ExtraKV:
    """Tokens outside the window, for each block of queries, seen at the distance of the last sink.

    key [R, n, J, N, K] (not rotated), value [R, n, J, N, V], seen bool [R, n, 1, Q, N].
    """

    key: Tensor
    value: Tensor
    seen: Tensor


class WindowAttention(Heads):
    """q, k, v = x W; softmax(scale q k^T) v with the masks of the window schedule. x [R, T, D] -> [R, T, H, V]."""

    def __init__(self, cfg: LayerConfig, geo: Geometry):
        super().__init__(cfg)
        self.geo, self.linear = geo, cfg.heads if cfg.position == "alibi" else 0
        self.narrow: int | None = None  # tokens that are seen, fewer than the window: only in training (`train.aids`)

    def init(self, batch: int) -> WindowState:
        """Empty rings."""
        cfg, like = self.cfg, self.like
        key = like.new_zeros(batch, self.geo.ring, cfg.key_heads, cfg.key_dim)
        value = like.new_zeros(batch, self.geo.ring, cfg.key_heads, cfg.val_dim)
        if not cfg.sinks:
            return WindowState(key, value)
        return WindowState(
            key,
            value,
            like.new_zeros(batch, cfg.sinks, cfg.key_heads, cfg.key_dim),
            like.new_zeros(batch, cfg.sinks, cfg.key_heads, cfg.val_dim),
        )

    def written(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (not rotated) and values [R, M, rate, J, K or V] of written tokens x [R, M, rate, D]."""
        asked, v = (z.unflatten(1, x.shape[1:3]) for z in self.project(x.flatten(1, 2)))
        return asked[..., self.cfg.heads :, :], v

    def forward(
        self, x: Tensor, state: WindowState, context: Context, further: ExtraKV | None = None
    ) -> tuple[Tensor, WindowState]:
        """One call over runs."""
        cfg, schedule = self.cfg, context.window(self.geo, x.dtype)
        asked, v = self.project(x)
        q_sink = asked[:, :, : cfg.heads]
        if cfg.position == "rope":
            asked = rope.rotate(asked, schedule.angles(cfg.key_dim, cfg.base))
            if cfg.sinks or further is not None:
                q_sink = rope.rotate(q_sink, schedule.angles(cfg.key_dim, cfg.base, sink=True))
        q, k = asked.split([cfg.heads, cfg.key_heads], 2)
        keys, values = schedule.ring.extend(state.key, k), schedule.ring.extend(state.value, v)
        after = WindowState(schedule.ring.keep(keys), schedule.ring.keep(values))
        if cfg.sinks:
            assert state.sink_key is not None and state.sink_value is not None
            shape = (len(x), cfg.sinks)
            after.sink_key = (
                torch.cat([state.sink_key, k], 1).flatten(0, 1).index_select(0, schedule.sink_take).unflatten(0, shape)
            )
            after.sink_value = (
                torch.cat([state.sink_value, v], 1).flatten(0, 1).index_select(0, schedule.sink_take).unflatten(0, shape)
            )
        return self._attend(q, q_sink, keys, values, after, schedule, further), after

    def step(
        self, x: Tensor, state: WindowState, context: StepContext, further: ExtraKV | None = None
    ) -> tuple[Tensor, WindowState]:
        """One token of each row, x [B, 1, D] -> [B, 1, H, V]."""
        cfg, geo, turn = self.cfg, self.geo, context.turns[self.geo.timing]
        asked, v = self.project(x)
        turning, farthest = cfg.position == "rope", geo.window + geo.rate - 2 + geo.sinks
        towards_sinks = asked[:, :, : cfg.heads]
        if turning:
            asked = rope.rotate(asked, context.rotation(cfg.key_dim, cfg.base))
        q, k = asked.split([cfg.heads, cfg.key_heads], 2)
        position, after = context.position, WindowState(put(state.key, k, context), put(state.value, v, context))
        bias = turn.once(("ring", geo.ring, self.linear, self.narrow, x.dtype), lambda: self._ring_biases(turn, x.dtype))
        parts = [window.Part(q, after.key.to(x.dtype), after.value.to(x.dtype), bias)]
        if state.sink_key is not None and state.sink_value is not None:
            sink = torch.arange(geo.sinks, device=x.device)
            mine = sink == position[:, None]
            mine = mine if context.active is None else mine & context.active[:, None]
            after.sink_key = torch.where(mine[..., None, None], k.to(state.sink_key.dtype), state.sink_key)
            after.sink_value = torch.where(mine[..., None, None], v.to(state.sink_value.dtype), state.sink_value)
            if turning:
                towards_sinks = rope.rotate(towards_sinks, context.rotation(cfg.key_dim, cfg.base, farthest))
            bias = self._biases(sink <= position[:, None], position.clamp(max=farthest)[:, None] - sink, x.dtype)
            parts.append(window.Part(towards_sinks, after.sink_key.to(x.dtype), after.sink_value.to(x.dtype), bias))
        if further is not None:
            key = further.key[:, 0].transpose(1, 2).to(x.dtype)
            if turning:
                here = rope.turned(torch.full((1, 1), geo.sinks - 1, device=x.device), cfg.key_dim, x.dtype, cfg.base)
                key = rope.rotate(rope.rotate(key, here), context.rotation(cfg.key_dim, cfg.base, farthest, rest=True))
            distance = (position.clamp(max=farthest)[:, None] - geo.sinks + 1).expand(-1, key.shape[1])
            bias = self._biases(further.seen[:, 0, 0, 0], distance, x.dtype)
            parts.append(window.Part(q, key, further.value[:, 0].transpose(1, 2).to(x.dtype), bias))
        return window.one(parts, cfg.scale), after

    def _ring_biases(self, turn: Turn, dtype: torch.dtype) -> Tensor:
        """`_biases` of the tokens in the ring, in the order of their slots."""
        geo, position = self.geo, turn.position[:, None]
        token = position - (position - torch.arange(geo.ring, device=position.device)) % geo.ring
        distance = position - token
        sees = (token >= turn.low[:, None]) | ((distance == 0) & (token >= geo.sinks))
        sees = sees if self.narrow is None else sees & (distance < self.narrow)
        return self._biases(sees, distance, dtype)

    def _biases(self, sees: Tensor, distance: Tensor, dtype: torch.dtype) -> Tensor:
        """bool and int64 [B, N] -> [B, H or 1, 1, N]: 0 or -slope * distance where it sees, else -inf."""
        if not self.linear:
            return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill(~sees, float("-inf"))[:, None, None]
        return alibi.biases(distance[:, None], self.linear, dtype).masked_fill(~sees[:, None, None], float("-inf"))

    def _placed(self, key: Tensor, schedule: WindowSchedule) -> Tensor:
        """Keys [..., K], rotated to the position of the last sink."""
        key = key.to(schedule.dtype)
        return rope.rotate(key, schedule.last_sink(key.shape[-1], self.cfg.base)) if self.cfg.position == "rope" else key

    def _attend(
        self,
        q: Tensor,
        q_sink: Tensor,
        keys: Tensor,
        values: Tensor,
        sinks: WindowState,
        schedule: WindowSchedule,
        further: ExtraKV | None,
    ) -> Tensor:
        n, rope_on = schedule.blocks, self.cfg.position == "rope"
        far = [] if further is None else [(self._placed(further.key, schedule), further.value.to(values.dtype))]
        if sinks.sink_key is not None and sinks.sink_value is not None:
            key, value = (x.transpose(1, 2)[:, None].expand(-1, n, -1, -1, -1) for x in (sinks.sink_key, sinks.sink_value))
            far.append((key, value))
        beyond = None if further is None else schedule.further(further.seen, self.linear)
        asked = window.Far(far, q_sink if rope_on else None, beyond)
        bands = schedule.bands(self.linear, self.narrow)
        return window.blocked(q, keys, values, bands, asked, schedule.block, self.cfg.scale)
