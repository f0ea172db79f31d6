"""Angles, masks and ring slots of exact attention for one call, shared by all layers of one geometry."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..ops import alibi, rope
from .call import Geometry
from .packed import PackedBatch

BLOCK = 128  # queries that attend together


class Ring:
    """Reads and writes rings of `entries` slots in one call: ring -> history [R, E, ...] in order of time, and back."""

    def __init__(self, packed: PackedBatch, entries: int, device: torch.device):
        self.packed, self.entries, self.device = packed, entries, device

    @cached_property
    def _in(self) -> Tensor:
        slot = (self.packed.positions.position[:, None] + np.arange(self.entries)[None]) % max(self.entries, 1)
        return torch.from_numpy(slot + np.arange(len(slot))[:, None] * self.entries).to(self.device).reshape(-1)

    @cached_property
    def _out(self) -> Tensor:
        pos, end = self.packed.positions.position[:, None], (self.packed.positions.position + self.packed.length)[:, None]
        slot = np.arange(self.entries)[None]
        token = end - 1 - (end - 1 - slot) % max(self.entries, 1)
        wide = self.entries + self.packed.width
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


class WindowSchedule:
    """Angles, masks and sink indices of one call, shared by all layers of one geometry.

    Masks are biases: 0 if visible, else -inf; layers with linear biases (`linear`: their number of heads, else 0) add those
    biases.
    """

    def __init__(self, packed: PackedBatch, geo: Geometry, device: torch.device, dtype: torch.dtype):
        self.packed, self.geo, self.device, self.dtype = packed, geo, device, dtype
        self.ring = Ring(packed, geo.ring, device)
        self.block = max(1, min(packed.width, BLOCK))
        self.blocks = -(-packed.width // self.block)
        pos = packed.positions.position
        self.pos = pos[:1] if len(pos) and (pos == pos[0]).all() else pos
        self._angles: dict[tuple[int, rope.Base, bool], tuple[Tensor, Tensor]] = {}
        self._bands: dict[tuple[int, int | None], list[tuple[int, int, Tensor]]] = {}

    def angles(self, width: int, base: rope.Base, sink: bool = False) -> tuple[Tensor, Tensor]:
        """Rotation of this call's tokens; with `sink`, of the queries that attend to the sinks."""
        if (width, base, sink) not in self._angles:
            at = self.pos[:, None] + np.arange(self.packed.width)[None]
            if sink:
                at = np.minimum(at, self.farthest)
            self._angles[width, base, sink] = rope.rotation(at, width, self.dtype, self.device, base)
        return self._angles[width, base, sink]

    @property
    def farthest(self) -> int:
        """The position at which a query's distance to the sinks stops growing."""
        return self.geo.window + self.geo.rate - 2 + self.geo.sinks

    def last_sink(self, width: int, base: rope.Base) -> tuple[Tensor, Tensor]:
        """Rotation of keys at the position of the last sink."""
        return rope.rotation(np.array([[self.geo.sinks - 1]]), width, self.dtype, self.device, base)

    def further(self, seen: Tensor, linear: int = 0) -> Tensor:
        """The visibility of an `ExtraKV`, bool [R, n, 1, Q, N] -> biases [R, n, H or 1, Q, N]."""
        bias = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        if linear:
            at = self.pos[:, None] + np.arange(seen.shape[1] * seen.shape[3])[None]
            distance = (np.minimum(at, self.farthest) - self.geo.sinks + 1).reshape(len(at), seen.shape[1], -1, 1)
            bias = bias + alibi.bias(distance, linear, self.dtype, self.device)
        return bias.masked_fill(~seen, float("-inf"))

    @cached_property
    def sink_take(self) -> Tensor:
        """[R*sinks] positions of each sink in the concatenated [sinks + T], flattened over runs."""
        pos, i, wide = (
            self.packed.positions.position[:, None],
            np.arange(self.geo.sinks)[None],
            self.geo.sinks + self.packed.width,
        )
        fresh = (i >= pos) & (i - pos < self.packed.length[:, None])
        index = np.where(fresh, self.geo.sinks + i - pos, i) + np.arange(len(pos))[:, None] * wide
        return torch.from_numpy(index).to(self.device).reshape(-1)

    def bands(self, linear: int = 0, narrow: int | None = None) -> list[tuple[int, int, Tensor]]:
        """(first block, last block, bias [R or 1, blocks or 1, H or 1, block, sinks + E + block]).

        narrow: besides the sinks, only the last so many tokens are visible.
        """
        if (linear, narrow) not in self._bands:
            early, pos = self.blocks, self.pos
            if len(pos) and self.block % self.geo.rate == 0 and (pos % self.geo.rate == pos[0] % self.geo.rate).all():
                settled = max(self.geo.ring + self.geo.sinks, self.farthest) - int(pos.min())
                early = min(self.blocks, max(0, -(-settled // self.block)))
            parts = [(0, early, self._bias(pos, np.arange(early), linear, narrow))] if early else []
            if early < self.blocks:  # from this block on, all blocks of all rows have the same mask
                parts.append((early, self.blocks, self._bias(pos[:1], np.array([early]), linear, narrow)))
            self._bands[linear, narrow] = parts
        return self._bands[linear, narrow]

    def _linear(self, sees: np.ndarray, distance: np.ndarray, heads: int) -> Tensor:
        """bool and int64 [..., Q, N] -> [..., H, Q, N]."""
        return alibi.bias(np.where(sees, distance, -1), heads, self.dtype, self.device)

    def _mask(self, sees: np.ndarray) -> Tensor:
        """bool [..., Q, N] -> [..., 1, Q, N]."""
        bias = torch.zeros(sees.shape, dtype=self.dtype, device="cpu")
        return bias.masked_fill_(torch.from_numpy(~sees), float("-inf")).unsqueeze(-3).to(self.device)

    def _bias(self, pos: np.ndarray, blocks: np.ndarray, linear: int, narrow: int | None) -> Tensor:
        geo, base = self.geo, pos[:, None] + blocks[None] * self.block
        t = (base[..., None] + np.arange(self.block))[..., None]
        p = (base[..., None] - geo.ring + np.arange(geo.ring + self.block))[..., None, :]
        low = geo.sinks + geo.rate * geo.written(t + 1) if geo.delay else np.maximum(geo.sinks, t - geo.window + 1)
        low = low if narrow is None else np.maximum(low, t - narrow + 1)
        sees = (p <= t) & ((p >= low) | (p == t) & (p >= geo.sinks))
        if geo.sinks:
            sees = np.concatenate([np.broadcast_to(np.arange(geo.sinks) <= t, (*sees.shape[:-1], geo.sinks)), sees], -1)
        if linear:
            return self._linear(sees, np.concatenate([np.minimum(t, self.farthest) - np.arange(geo.sinks), t - p], -1), linear)
        return self._mask(sees)
