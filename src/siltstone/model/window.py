"""Exact causal attention over the last `window` tokens, tokens pending compression, and sinks.

The ring holds the last E tokens of each row at slot position % E. A call lays ring and new tokens end to end, cuts the
queries into blocks and lets each block attend to its own tokens and the E before them. Softmax attention, eq. 1 of
arXiv 1706.03762; the window as in arXiv 2004.05150; sinks as in arXiv 2309.17453 (a sink's distance stops growing when
it leaves the window). Positions: rotary, or linear biases (arXiv 2108.12409), for which a sink's distance is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import LayerConfig
from ..state import State, frozen
from ..transforms import at_work
from . import alibi, rope
from .heads import Heads
from .plan import Geometry
from .runs import Runs

if TYPE_CHECKING:
    from .context import Context

BLOCK = 128


@dataclass
class WindowState(State):
    """key [B, E, J, K] (rotated), value [B, E, J, V]: the ring; sink_key [B, sinks, J, K], sink_value: the sinks."""

    narrow: ClassVar[tuple[str, ...]] = ("key", "value", "sink_key", "sink_value")

    key: Tensor
    value: Tensor
    sink_key: Tensor | None = None
    sink_value: Tensor | None = None


@dataclass(frozen=True)
class Further:
    """Tokens besides those of the window, for each block of queries, seen at the distance of the last sink.

    key [R, n, J, N, K] (not rotated), value [R, n, J, N, V], seen bool [R, n, 1, Q, N].
    """

    key: Tensor
    value: Tensor
    seen: Tensor


class Ring:
    """Reading and writing rings of `entries` slots in one call: history [R, E, ...] in order of time, and back."""

    def __init__(self, runs: Runs, entries: int, device: torch.device):
        self.runs, self.entries, self.device = runs, entries, device

    @cached_property
    def _in(self) -> Tensor:
        slot = (self.runs.clock.position[:, None] + np.arange(self.entries)[None]) % max(self.entries, 1)
        return torch.from_numpy(slot + np.arange(len(slot))[:, None] * self.entries).to(self.device).reshape(-1)

    @cached_property
    def _out(self) -> Tensor:
        pos, end = self.runs.clock.position[:, None], (self.runs.clock.position + self.runs.length)[:, None]
        slot = np.arange(self.entries)[None]
        token = end - 1 - (end - 1 - slot) % max(self.entries, 1)
        wide = self.entries + self.runs.width
        index = np.clip(token - pos + self.entries, 0, wide - 1) + np.arange(len(pos))[:, None] * wide
        return torch.from_numpy(index).to(self.device).reshape(-1)

    def extend(self, ring: Tensor, new: Tensor) -> Tensor:
        """History in order of time, then the call's tokens: [R, E + T, ...]."""
        if not self.entries:
            return new
        past = ring.flatten(0, 1).index_select(0, self._in).unflatten(0, (len(ring), self.entries))
        return torch.cat([past, new.to(past.dtype)], 1)

    def keep(self, both: Tensor) -> Tensor:
        """The ring after the call."""
        if not self.entries:
            return both[:, :0]
        return both.flatten(0, 1).index_select(0, self._out).unflatten(0, (len(both), self.entries))


def put(ring: Tensor, token: Tensor, slot: int, donate: bool) -> Tensor:
    """The ring [R, E, ...] with one token [R, 1, ...] at a slot; in place where the caller gave the ring up."""
    if at_work():
        return torch.cat([ring[:, :slot], token.to(ring.dtype), ring[:, slot + 1 :]], 1)
    ring = ring if donate and not torch.is_grad_enabled() and not frozen(ring) else ring.clone()
    ring.narrow(1, slot, 1).copy_(token)
    return ring


class WindowPlan:
    """Angles, masks and sink indices of one call, shared by all layers of one geometry.

    Masks are biases, 0 where visible, else -inf; for layers with linear biases (`linear`: their number of heads, else 0)
    these are added.
    """

    def __init__(self, runs: Runs, geo: Geometry, device: torch.device, dtype: torch.dtype):
        self.runs, self.geo, self.device, self.dtype = runs, geo, device, dtype
        self.ring = Ring(runs, geo.ring, device)
        self.block = max(1, min(runs.width, BLOCK))
        self.blocks = -(-runs.width // self.block)
        pos = runs.clock.position
        self.pos = pos[:1] if len(pos) and (pos == pos[0]).all() else pos
        self._angles: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}
        self._bands: dict[int, list[tuple[int, int, Tensor]]] = {}
        self._slots: dict[int, Tensor | None] = {}

    def angles(self, width: int, sink: bool = False) -> tuple[Tensor, Tensor]:
        """Rotation of this call's tokens; with `sink`, of the queries towards the sinks."""
        if (width, sink) not in self._angles:
            at = self.pos[:, None] + np.arange(self.runs.width)[None]
            if sink:
                at = np.minimum(at, self.farthest)
            self._angles[width, sink] = rope.rotation(at, width, self.dtype, self.device)
        return self._angles[width, sink]

    @property
    def farthest(self) -> int:
        """The position beyond which a query sees sinks as from there."""
        return self.geo.window + self.geo.rate - 2 + self.geo.sinks

    def last_sink(self, width: int, at: int | None = None) -> tuple[Tensor, Tensor]:
        """Rotation of keys that stand where the last sink does; at: towards a query rotated by its own position."""
        moved = 0 if at is None else at - min(at, self.farthest)
        return rope.rotation(np.array([[self.geo.sinks - 1 + moved]]), width, self.dtype, self.device)

    def further(self, seen: Tensor, linear: int = 0) -> Tensor:
        """What a `Further` sees, bool [R, n, 1, Q, N] -> biases [R, n, H or 1, Q, N]."""
        bias = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        if linear:
            at = self.pos[:, None] + np.arange(seen.shape[1] * seen.shape[3])[None]
            distance = (np.minimum(at, self.farthest) - self.geo.sinks + 1).reshape(len(at), seen.shape[1], -1, 1)
            bias = bias + alibi.bias(distance, linear, self.dtype, self.device)
        return bias.masked_fill(~seen, float("-inf"))

    @cached_property
    def sink_take(self) -> Tensor:
        """[R*sinks] positions of each sink in [sinks + T] laid end to end, flattened over runs."""
        pos, i, wide = self.runs.clock.position[:, None], np.arange(self.geo.sinks)[None], self.geo.sinks + self.runs.width
        fresh = (i >= pos) & (i - pos < self.runs.length[:, None])
        index = np.where(fresh, self.geo.sinks + i - pos, i) + np.arange(len(pos))[:, None] * wide
        return torch.from_numpy(index).to(self.device).reshape(-1)

    def bands(self, linear: int = 0) -> list[tuple[int, int, Tensor]]:
        """(first block, last block, bias [R or 1, blocks or 1, H or 1, block, sinks + E + block])."""
        if linear not in self._bands:
            early, pos = self.blocks, self.pos
            if len(pos) and self.block % self.geo.rate == 0 and (pos % self.geo.rate == pos[0] % self.geo.rate).all():
                settled = max(self.geo.ring + self.geo.sinks, self.farthest) - int(pos.min())
                early = min(self.blocks, max(0, -(-settled // self.block)))
            parts = [(0, early, self._bias(pos, np.arange(early), linear))] if early else []
            if early < self.blocks:  # from here on all blocks of all rows see alike
                parts.append((early, self.blocks, self._bias(pos[:1], np.array([early]), linear)))
            self._bands[linear] = parts
        return self._bands[linear]

    def slots_bias(self, linear: int = 0) -> Tensor | None:
        """[1, H or 1, 1, E] over the ring's slots for one more token (its own included); None: all are visible alike."""
        if linear not in self._slots:
            geo, t = self.geo, int(self.pos[0])
            token = t - (t - np.arange(geo.ring)) % geo.ring
            low = geo.sinks + geo.rate * int(geo.written(t + 1)) if geo.delay else max(geo.sinks, t - geo.window + 1)
            sees = ((token >= 0) & ((token >= low) | (token == t)))[None, None]
            plain = None if sees.all() else self._mask(sees)
            self._slots[linear] = self._linear(sees, t - token, linear) if linear else plain
        return self._slots[linear]

    def _linear(self, sees: np.ndarray, distance: np.ndarray, heads: int) -> Tensor:
        """bool and int64 [..., Q, N] -> [..., H, Q, N]."""
        return alibi.bias(np.where(sees, distance, -1), heads, self.dtype, self.device)

    def _mask(self, sees: np.ndarray) -> Tensor:
        """bool [..., Q, N] -> [..., 1, Q, N]."""
        bias = torch.zeros(sees.shape, dtype=self.dtype, device="cpu")
        return bias.masked_fill_(torch.from_numpy(~sees), float("-inf")).unsqueeze(-3).to(self.device)

    def _bias(self, pos: np.ndarray, blocks: np.ndarray, linear: int) -> Tensor:
        geo, base = self.geo, pos[:, None] + blocks[None] * self.block
        t = (base[..., None] + np.arange(self.block))[..., None]
        p = (base[..., None] - geo.ring + np.arange(geo.ring + self.block))[..., None, :]
        low = geo.sinks + geo.rate * geo.written(t + 1) if geo.delay else np.maximum(geo.sinks, t - geo.window + 1)
        sees = (p <= t) & ((p >= low) | (p == t) & (p >= geo.sinks))
        if geo.sinks:
            sees = np.concatenate([np.broadcast_to(np.arange(geo.sinks) <= t, (*sees.shape[:-1], geo.sinks)), sees], -1)
        if linear:
            return self._linear(sees, np.concatenate([np.minimum(t, self.farthest) - np.arange(geo.sinks), t - p], -1), linear)
        return self._mask(sees)


class WindowAttention(Heads):
    """q, k, v = x W; softmax(q k^T / sqrt(K)) v over what the window plan shows. x [R, T, D] -> [R, T, H, V]."""

    def __init__(self, cfg: LayerConfig, geo: Geometry):
        super().__init__(cfg)
        self.geo, self.linear = geo, cfg.heads if cfg.position == "alibi" else 0

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
        self, x: Tensor, state: WindowState, context: Context, further: Further | None = None
    ) -> tuple[Tensor, WindowState]:
        """One call over runs."""
        cfg, plan = self.cfg, context.window(self.geo, x.dtype)
        asked, v = self.project(x)
        q_sink = asked[:, :, : cfg.heads]
        if cfg.position == "rope":
            asked = rope.rotate(asked, plan.angles(cfg.key_dim))
            q_sink = rope.rotate(q_sink, plan.angles(cfg.key_dim, sink=True)) if cfg.sinks or further is not None else q_sink
        q, k = asked.split([cfg.heads, cfg.key_heads], 2)
        if context.tick is not None and not cfg.sinks:
            slot = context.tick % self.geo.ring
            after = WindowState(put(state.key, k, slot, context.donate), put(state.value, v, slot, context.donate))
            keys, values = after.key.transpose(1, 2).to(x.dtype), after.value.transpose(1, 2).to(x.dtype)
            bias = plan.slots_bias(self.linear)
            if further is not None:
                far = plan.further(further.seen, self.linear)[:, 0]
                near = keys.new_zeros(1, 1, 1, keys.shape[2]) if bias is None else bias
                bias = torch.cat([far, near.expand(len(x), far.shape[1], -1, -1)], -1)
                keys = torch.cat([self._placed(further.key[:, 0], plan, context.tick), keys], 2)
                values = torch.cat([further.value[:, 0].to(x.dtype), values], 2)
            return self.attend(q.transpose(1, 2), keys, values, bias).transpose(1, 2), after
        keys, values = plan.ring.extend(state.key, k), plan.ring.extend(state.value, v)
        after = WindowState(plan.ring.keep(keys), plan.ring.keep(values))
        if cfg.sinks:
            assert state.sink_key is not None and state.sink_value is not None
            shape = (len(x), cfg.sinks)
            after.sink_key = torch.cat([state.sink_key, k], 1).flatten(0, 1).index_select(0, plan.sink_take).unflatten(0, shape)
            after.sink_value = (
                torch.cat([state.sink_value, v], 1).flatten(0, 1).index_select(0, plan.sink_take).unflatten(0, shape)
            )
        return self._attend(q, q_sink, keys, values, after, plan, further), after

    def _placed(self, key: Tensor, plan: WindowPlan, at: int | None = None) -> Tensor:
        """Keys [..., K], rotated to where the last sink stands."""
        key = key.to(plan.dtype)
        return rope.rotate(key, plan.last_sink(key.shape[-1], at)) if self.cfg.position == "rope" else key

    def _attend(
        self,
        q: Tensor,
        q_sink: Tensor,
        keys: Tensor,
        values: Tensor,
        sinks: WindowState,
        plan: WindowPlan,
        further: Further | None,
    ) -> Tensor:
        runs, tokens = q.shape[:2]
        block, n, ring = plan.block, plan.blocks, self.geo.ring
        short = n * block - tokens
        if short:
            q, q_sink = (F.pad(z, (0, 0, 0, 0, 0, short)) for z in (q, q_sink))
            keys, values = F.pad(keys, (0, 0, 0, 0, 0, short)), F.pad(values, (0, 0, 0, 0, 0, short))
        q = q.unflatten(1, (n, block)).transpose(2, 3)
        keys = keys.unfold(1, ring + block, block).permute(0, 1, 2, 4, 3)
        values = values.unfold(1, ring + block, block).permute(0, 1, 2, 4, 3)
        fixed = [] if further is None else [(self._placed(further.key, plan), further.value.to(values.dtype))]
        if sinks.sink_key is not None and sinks.sink_value is not None:
            key, value = (x.transpose(1, 2)[:, None].expand(-1, n, -1, -1, -1) for x in (sinks.sink_key, sinks.sink_value))
            fixed.append((key, value))
        if fixed:
            far = torch.cat([key for key, _ in fixed], -2)
            if self.cfg.position == "rope":  # what a sink is asked with stands beside what the others are asked with
                q = torch.cat([q, q_sink.unflatten(1, (n, block)).transpose(2, 3)], -1)
                far, keys = F.pad(far, (far.shape[-1], 0)), F.pad(keys, (0, keys.shape[-1]))
            keys, values = torch.cat([far, keys], -2), torch.cat([*(value for _, value in fixed), values], -2)
        beyond = None if further is None else plan.further(further.seen, self.linear)
        outs = []
        for first, last, bias in plan.bands(self.linear):
            part = (runs, last - first)
            bias = bias.expand(*part, -1, -1, -1)
            if beyond is not None:
                bias = torch.cat([beyond[:, first:last], bias], -1)
            bias = bias.flatten(0, 1)
            qb, kb, vb = (z[:, first:last].flatten(0, 1) for z in (q, keys, values))
            outs.append(self.attend(qb, kb, vb, bias).unflatten(0, part))
        out = torch.cat(outs, 1) if len(outs) > 1 else outs[0]
        return out.transpose(2, 3).flatten(1, 2)[:, :tokens]
