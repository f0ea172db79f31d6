"""Slots: m vectors per head, slot <- gate(base, attention of base over a batch of writes), o = softmax(q A^T) slots.

    q_s = l2(base_s W_seek + I_s),   e_sj = exp(tau <q_s, k_j>),   a_s = sum_j e_sj v_j / (1 + sum_j e_sj)
    lstm:  slot_s = sigmoid(f) base_s + sigmoid(i) tanh(z),     (z, i, f) = a_s W + b_s
    gru:   slot_s = (1 - u) base_s + u tanh(z), u = sigmoid(~u),   (z, ~u) = a_s W + b_s
    read:  o = sum_s softmax_s(tau' <q, A_s>) slot_s,   A_s = l2(slot_s W_key + J_s)

Source: arXiv 2203.07852; u as in a GRU, arXiv 1406.1078.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .chunked import Reader, chunks
from .norm import l2
from .upcast import upcast


class Weights(NamedTuple):
    """seek, key [H, V, K], their identities I, J [H, m, K], and the logs of tau and tau' [H].

    gate W [H, V, n V] and bias b [H * m * n V], with n = 3 for lstm and 2 for gru.
    """

    seek: Tensor
    seek_id: Tensor
    seek_scale: Tensor
    key: Tensor
    key_id: Tensor
    key_scale: Tensor
    gate: Tensor
    bias: Tensor


class Leaves(NamedTuple):
    """slots [B, H, m, V]: the current slots; `base`: the slots at the running batch's start; found [B, H, m, V]: the batch's a
    so far; level [B, H, m]: the log of the denominator of a."""

    slots: Tensor
    base: Tensor
    found: Tensor
    level: Tensor


def step(state: Leaves, key: Tensor, value: Tensor, weights: Weights, *, begins: Tensor | None) -> Leaves:
    """One write, key [B, H, K], value [B, H, V]; begins: bool [B], it is the first of its batch; None: every write is."""
    before = fresh(state) if begins is None else choose(begins, fresh(state), state)
    score = upcast(asking(before.base, weights) @ upcast(key).unsqueeze(-1))
    return _taken(before, score, upcast(value).unsqueeze(-2), weights)


def chunk(
    state: Leaves,
    key: Tensor,
    value: Tensor,
    weights: Weights,
    *,
    valid: Tensor | None = None,
    skip: Tensor | None = None,
    size: int = 16,
) -> tuple[tuple[SlotsRead, SlotsRead], Leaves]:
    """`step` for [G, S, L, H, ...] each -> readers of addresses and slots, and the state after each segment chunk.

    size: writes of a batch. skip int [G, S]: empty slots before a segment chunk's first write; an unfinished batch
    continues there.
    """
    key, value = upcast(chunks(key, size)), upcast(chunks(value, size))
    there = None if valid is None else valid.unflatten(2, (-1, size))
    seen, ends = [], []
    for s in range(key.shape[1]):
        for i in range(key.shape[3]):
            before = fresh(state) if i or skip is None else choose(skip[:, s] > 0, state, fresh(state))
            score = upcast(asking(before.base, weights) @ key[:, s, :, i].transpose(-1, -2))
            if there is not None:
                score = score.masked_fill(~there[:, s, None, None, i], -math.inf)
            seen.append((before, score))
            after = _taken(before, score, value[:, s, :, i], weights)
            state = after if there is None else choose(there[:, s, i].any(-1), after, state)
        ends.append(state)
    during = During(seen, value, weights)
    return (SlotsRead(during, 0), SlotsRead(during, 1)), stacked(ends)


def asking(slots: Tensor, weights: Weights) -> Tensor:
    """tau q_s [..., H, m, K]: the queries with which slots [..., H, m, V] attend to writes."""
    scale = upcast(weights.seek_scale).exp()[:, None, None]
    return scale * l2(per_head(slots, weights.seek) + weights.seek_id)


def addresses(slots: Tensor, weights: Weights) -> Tensor:
    """tau' A_s [..., H, m, K]: the addresses by which queries attend to slots [..., H, m, V]."""
    scale = upcast(weights.key_scale).exp()[:, None, None]
    return scale * l2(per_head(slots, weights.key) + weights.key_id)


def activation(factor: int, z: Tensor) -> Tensor:
    """softmax over the slots, between the two matrices."""
    return upcast(z).softmax(-1).to(z.dtype) if factor == 0 else z


def gated(base: Tensor, found: Tensor, weights: Weights) -> Tensor:
    """gate(base, a), each [..., H, m, V]."""
    gate = weights.gate
    parts = upcast(per_head(found, gate)) + weights.bias.view(len(gate), -1, gate.shape[-1])
    if gate.shape[-1] == 2 * base.shape[-1]:
        new, share = parts.chunk(2, -1)
        return torch.lerp(base, new.tanh(), share.sigmoid())
    new, enter, keep = parts.chunk(3, -1)
    return torch.addcmul(keep.sigmoid() * base, enter.sigmoid(), new.tanh())


def _taken(before: Leaves, score: Tensor, value: Tensor, weights: Weights) -> Leaves:
    """The state after a batch of writes: score [G, H, m, c], value [G, H, c, V]."""
    all_scores = torch.cat([before.level.unsqueeze(-1), score], -1)
    shares = all_scores.softmax(-1)
    found = shares[..., :1] * before.found + shares[..., 1:] @ value
    return Leaves(gated(before.base, found, weights), before.base, found, all_scores.logsumexp(-1))


class During:
    """Slots during a call.

    seen    the state at each batch's start, and the scores [G, H, m, c] of its writes (-inf: none), in order
    value   [G, S, H, n, c, V]
    """

    def __init__(self, seen: list[tuple[Leaves, Tensor]], value: Tensor, weights: Weights):
        self.seen, self.value, self.weights = seen, value, weights
        self._after: Tensor | None = None

    @property
    def after(self) -> Tensor:
        """[G, S, L, H, m, V]: the slots after each write; as `_taken`, for all batch starts at once."""
        if self._after is None:
            self._after = self._computed()
        return self._after

    def _computed(self) -> Tensor:
        segment_chunks, n = self.value.shape[1], self.value.shape[3]
        before = Leaves(*(x.unflatten(1, (segment_chunks, n)) for x in stacked([b for b, _ in self.seen])))
        score = torch.stack([s for _, s in self.seen], 1).unflatten(1, (segment_chunks, n)).unsqueeze(4)  # [G, S, n, H, 1, m, c]
        size = score.shape[-1]
        late = torch.ones(size, size, dtype=torch.bool, device=score.device).triu(1).unsqueeze(1)
        score = score.masked_fill(late, -math.inf)  # [G, S, n, H, c, m, c]
        level = before.level[..., None, :, None].expand(*score.shape[:-1], 1)
        shares = torch.cat([level, score], -1).softmax(-1)
        near = shares[..., 1:].flatten(4, 5) @ self.value.transpose(2, 3)
        found = (shares[..., :1] * before.found.unsqueeze(4) + near.unflatten(4, (size, -1))).transpose(3, 4)
        return gated(before.base.unsqueeze(3), found, self.weights).flatten(2, 3)


class SlotsRead(Reader):
    """The addresses of slots (read factor 0), or the slots."""

    def __init__(self, during: During, factor: int):
        self.during, self.factor = during, factor

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """See Reader."""
        after = self.during.after[:, :, group - 1 :: group]
        matrices = addresses(after, self.during.weights).transpose(-1, -2) if self.factor == 0 else after
        rows = z.unflatten(3, (matrices.shape[2], -1)).transpose(2, 3)  # [G, S, L, H, rate, in]
        return (rows @ matrices.to(z.dtype)).transpose(2, 3).flatten(3, 4)


def per_head(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., H, m, V] times each head's own matrix [H, V, out]."""
    return torch.einsum("...hmv,hvk->...hmk", x, weight.to(x.dtype))


def fresh(state: Leaves) -> Leaves:
    """The state at the start of a batch with these slots: a = 0, with denominator 1."""
    return Leaves(state.slots, state.slots, torch.zeros_like(state.found), torch.zeros_like(state.level))


def choose(which: Tensor, one: Leaves, other: Leaves) -> Leaves:
    """Rows [G] of one state or the other."""
    return Leaves(*(torch.where(which.view(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in zip(one, other, strict=True)))


def stacked(states: list[Leaves]) -> Leaves:
    """Leaves [G, number, ...]."""
    return Leaves(*(torch.stack(leaf, 1) for leaf in zip(*states, strict=True)))
