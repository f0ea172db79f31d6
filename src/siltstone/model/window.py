"""Exact causal attention over the last `window` tokens, tokens pending compression, and sinks.

The ring holds the last E tokens of each row at slot position % E. A call lays ring and new tokens end to end, cuts the
queries into blocks and lets each block attend to its own tokens and the E before them. Softmax attention, eq. 1 of
arXiv 1706.03762; the window as in arXiv 2004.05150; sinks as in arXiv 2309.17453 (a sink's distance stops growing when
it leaves the window).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LayerConfig
from ..state import State
from . import rope
from .plan import Geometry
from .runs import Runs

if TYPE_CHECKING:
    from .context import Context

BLOCK = 128


@dataclass
class WindowState(State):
    """key [B, E, H, K] (rotated), value [B, E, H, V]: the ring; sink_key [B, sinks, H, K], sink_value: the sinks."""

    key: Tensor
    value: Tensor
    sink_key: Tensor | None = None
    sink_value: Tensor | None = None


@dataclass(frozen=True)
class Further:
    """Tokens besides those of the window, for each block of queries, seen at the distance of the last sink.

    key [R, n, H, J, K] (not rotated), value [R, n, H, J, V], bias [R, n, 1, Q, J]: 0 where visible, else -inf.
    """

    key: Tensor
    value: Tensor
    bias: Tensor


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
    ring = ring if donate and not torch.is_grad_enabled() else ring.clone()
    ring.narrow(1, slot, 1).copy_(token)
    return ring


class WindowPlan:
    """Angles, masks and sink indices of one call, shared by all layers of one geometry."""

    def __init__(self, runs: Runs, geo: Geometry, device: torch.device, dtype: torch.dtype):
        self.runs, self.geo, self.device, self.dtype = runs, geo, device, dtype
        self.ring = Ring(runs, geo.ring, device)
        self.block = max(1, min(runs.width, BLOCK))
        self.blocks = -(-runs.width // self.block)
        pos = runs.clock.position
        self.pos = pos[:1] if len(pos) and (pos == pos[0]).all() else pos

    @cached_property
    def _angles(self) -> dict[tuple[int, bool], tuple[Tensor, Tensor]]:
        return {}

    def angles(self, width: int, sink: bool = False) -> tuple[Tensor, Tensor]:
        """Rotation of this call's tokens; with `sink`, of the queries towards the sinks."""
        if (width, sink) not in self._angles:
            at = self.pos[:, None] + np.arange(self.runs.width)[None]
            if sink:
                at = np.minimum(at, self.edge)
            self._angles[width, sink] = rope.rotation(at, width, self.dtype, self.device)
        return self._angles[width, sink]

    @property
    def edge(self) -> int:
        """The position from which on no sink drifts further away."""
        return self.geo.window + self.geo.rate - 2 + self.geo.sinks

    def last_sink(self, width: int, at: int | None = None) -> tuple[Tensor, Tensor]:
        """Rotation of keys that stand where the last sink does; at: towards a query rotated by its own position."""
        moved = 0 if at is None else at - min(at, self.edge)
        return rope.rotation(np.array([[self.geo.sinks - 1 + moved]]), width, self.dtype, self.device)

    @cached_property
    def sink_take(self) -> Tensor:
        """[R*sinks] positions of each sink in [sinks + T] laid end to end, flattened over runs."""
        pos, i, wide = self.runs.clock.position[:, None], np.arange(self.geo.sinks)[None], self.geo.sinks + self.runs.width
        fresh = (i >= pos) & (i - pos < self.runs.length[:, None])
        index = np.where(fresh, self.geo.sinks + i - pos, i) + np.arange(len(pos))[:, None] * wide
        return torch.from_numpy(index).to(self.device).reshape(-1)

    @cached_property
    def bands(self) -> list[tuple[int, int, Tensor]]:
        """(first block, last block, bias [R or 1, blocks or 1, 1, block, sinks + E + block]): 0 where visible, else -inf."""
        early = self.blocks
        if self.geo.rate == 1 and len(self.pos) == 1:
            settled = self.geo.ring + self.geo.sinks - int(self.pos[0])
            early = min(self.blocks, max(0, -(-settled // self.block)))
        parts = [(0, early, self._bias(np.arange(early)))] if early else []
        return parts + ([(early, self.blocks, self._bias(np.array([early])))] if early < self.blocks else [])

    @cached_property
    def slots_bias(self) -> Tensor | None:
        """[1, 1, 1, E] over the ring's slots for one more token (its own included); None: all are visible."""
        geo, t = self.geo, int(self.pos[0])
        token = t - (t - np.arange(geo.ring)) % geo.ring
        low = geo.sinks + geo.rate * int(geo.written(t + 1)) if geo.delay else max(geo.sinks, t - geo.window + 1)
        sees = (token >= 0) & ((token >= low) | (token == t))
        if sees.all():
            return None
        bias = torch.zeros(1, 1, 1, geo.ring, dtype=self.dtype)
        return bias.masked_fill_(torch.from_numpy(~sees), float("-inf")).to(self.device)

    def _bias(self, blocks: np.ndarray) -> Tensor:
        geo, base = self.geo, self.pos[:, None] + blocks[None] * self.block
        t = (base[..., None] + np.arange(self.block))[..., None]
        p = (base[..., None] - geo.ring + np.arange(geo.ring + self.block))[..., None, :]
        low = geo.sinks + geo.rate * geo.written(t + 1) if geo.delay else np.maximum(geo.sinks, t - geo.window + 1)
        sees = (p <= t) & ((p >= low) | (p == t) & (p >= geo.sinks))
        if geo.sinks:
            sees = np.concatenate([np.broadcast_to(np.arange(geo.sinks) <= t, (*sees.shape[:-1], geo.sinks)), sees], -1)
        bias = torch.zeros(sees.shape, dtype=self.dtype)
        return bias.masked_fill_(torch.from_numpy(~sees), float("-inf")).unsqueeze(2).to(self.device)


class WindowAttention(nn.Module):
    """q, k, v = x W; softmax(q k^T / sqrt(K)) v over what the window plan shows. x [R, T, D] -> [R, T, H, V]."""

    def __init__(self, cfg: LayerConfig, geo: Geometry):
        super().__init__()
        self.cfg, self.geo = cfg, geo
        self.qkv = nn.Linear(cfg.d_model, cfg.heads * (2 * cfg.key_dim + cfg.val_dim), bias=False)

    def init(self, batch: int) -> WindowState:
        """Empty rings."""
        cfg, like = self.cfg, self.qkv.weight
        key = like.new_zeros(batch, self.geo.ring, cfg.heads, cfg.key_dim)
        value = like.new_zeros(batch, self.geo.ring, cfg.heads, cfg.val_dim)
        if not cfg.sinks:
            return WindowState(key, value)
        return WindowState(
            key,
            value,
            like.new_zeros(batch, cfg.sinks, cfg.heads, cfg.key_dim),
            like.new_zeros(batch, cfg.sinks, cfg.heads, cfg.val_dim),
        )

    def written(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (not rotated) and values [..., H, K or V] of tokens x [..., D]."""
        cfg = self.cfg
        found = F.linear(x, self.qkv.weight[cfg.heads * cfg.key_dim :])
        k, v = found.split([cfg.heads * cfg.key_dim, cfg.heads * cfg.val_dim], -1)
        return k.unflatten(-1, (cfg.heads, -1)), v.unflatten(-1, (cfg.heads, -1))

    def forward(
        self, x: Tensor, state: WindowState, context: Context, further: Further | None = None
    ) -> tuple[Tensor, WindowState]:
        """One call over runs."""
        cfg, plan = self.cfg, context.window(self.geo, x.dtype)
        asked, v = self.qkv(x).split([2 * cfg.heads * cfg.key_dim, cfg.heads * cfg.val_dim], -1)
        asked, v = asked.unflatten(-1, (2 * cfg.heads, -1)), v.unflatten(-1, (cfg.heads, -1))
        q_sink = asked[:, :, : cfg.heads]
        if cfg.position == "rope":
            asked = rope.rotate(asked, plan.angles(cfg.key_dim))
            q_sink = rope.rotate(q_sink, plan.angles(cfg.key_dim, sink=True)) if cfg.sinks or further is not None else q_sink
        q, k = asked.split(cfg.heads, 2)
        if context.tick is not None and not cfg.sinks:
            slot = context.tick[0] % self.geo.ring
            after = WindowState(put(state.key, k, slot, context.donate), put(state.value, v, slot, context.donate))
            keys, values = after.key.transpose(1, 2).to(x.dtype), after.value.transpose(1, 2).to(x.dtype)
            bias = plan.slots_bias
            if further is not None:
                far = self._placed(further.key[:, 0], plan, context.tick[0])
                near = keys.new_zeros(1, 1, 1, keys.shape[2]) if bias is None else bias
                bias = torch.cat([further.bias[:, 0].to(x.dtype), near.expand(len(x), -1, -1, -1)], -1)
                keys, values = torch.cat([far, keys], 2), torch.cat([further.value[:, 0].to(x.dtype), values], 2)
            out = F.scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=bias, scale=cfg.key_dim**-0.5)
            return out.transpose(1, 2), after
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
            q = torch.cat([q, q_sink.unflatten(1, (n, block)).transpose(2, 3)], -1)
            keys = torch.cat([F.pad(far, (far.shape[-1], 0)), F.pad(keys, (0, keys.shape[-1]))], -2)
            values = torch.cat([*(value for _, value in fixed), values], -2)
        outs = []
        for first, last, bias in plan.bands:
            part = (runs, last - first)
            bias = bias.expand(*part, -1, -1, -1)
            if further is not None:
                bias = torch.cat([further.bias[:, first:last].to(bias.dtype), bias], -1)
            bias = bias.flatten(0, 1)
            qb, kb, vb = (z[:, first:last].flatten(0, 1) for z in (q, keys, values))
            o = F.scaled_dot_product_attention(qb, kb, vb, attn_mask=bias, scale=self.cfg.key_dim**-0.5)
            outs.append(o.unflatten(0, part))
        out = torch.cat(outs, 1) if len(outs) > 1 else outs[0]
        return out.transpose(2, 3).flatten(1, 2)[:, :tokens]
