"""Slots: m vectors a head, slot <- gate(base, attention of base over a batch of writes), o = softmax(q A^T) slots.

Slot s asks the writes j of the running batch, from the batch's start up to the current one, with unit vectors:

    q_s = l2(base_s W_seek + I_s),   e_sj = exp(tau <q_s, k_j>),   a_s = sum_j e_sj v_j / (1 + sum_j e_sj)
    lstm:  slot_s = sigmoid(f) base_s + sigmoid(i) tanh(z),     (z, i, f) = a_s W + b_s
    gru:   slot_s = (1 - u) base_s + u tanh(z), u = sigmoid(~u),   (z, ~u) = a_s W + b_s
    read:  o = sum_s softmax_s(tau' <q, A_s>) slot_s,   A_s = l2(slot_s W_key + J_s)

with W_seek, W_key, W, I, J, b, tau and tau' learned, a set a head, and base the slots in force at the last multiple of
`inner_batch` writes since the segment's cut (inner_batch = 1: a recurrence of writes). The 1 beside the sum stands for taking
nothing: without it a batch of one write would fill all slots alike. Slots begin as learned vectors.
Source: arXiv 2203.07852 (slots with learned identities, LSTM gates that see what was attended to); u as in a GRU, arXiv
1406.1078. State: 3 * H * m * V + H * m floats.
Cost: H * m * (2 * K * V + 3 * V^2 + 2 * K + 2 * V).

For: a few things to be kept apart.
Can: keep m vectors a head, each with gates of its own, by which it also forgets; recall about m things a head (in the toy of
docs/family.md 16 slots hold 12 keys, and nothing is pressed for room).
Cannot: ask writes with what the same batch has changed (slots ask as they were when it began); hold more than m things apart;
be merged. In the toy it does not learn parity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..config.checks import whole, whole_updates
from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops.norm import l2
from ..state.tree import State
from .base import MOST, Inputs, Memory, Written, wide
from .chunked import chunks

GATES = {"lstm": 3, "gru": 2}


@dataclass(frozen=True)
class SlotOptions:
    """number: m, slots a head. inner_batch: writes that slots attend to together. gate: "lstm" or "gru"."""

    number: int = 16
    inner_batch: int = 16
    gate: str = "lstm"


@dataclass
class SlotState(State):
    """slots [B, H, m, V] now, `base` at the running batch's start; found [B, H, m, V]: the a of the batch so far, and
    level [B, H, m]: the log of the sum it was divided by."""

    slots: Tensor
    base: Tensor
    found: Tensor
    level: Tensor


class Slots(Memory):
    """slot <- gate(base, attention of base over the batch's writes so far)."""

    name: ClassVar[str] = "slots"
    Options = SlotOptions
    stages_count: ClassVar[int] = 2
    read_is_linear = False
    adds_up = False

    def __init__(self, cfg: LayerConfig, options: SlotOptions):
        super().__init__(cfg, options)
        self.batch, number, parts = options.inner_batch, options.number, GATES[options.gate]
        heads, key, val = self.heads, self.key_dim, self.val_dim
        self.query = nn.Linear(cfg.d_model, heads * key, bias=False)
        self.write = nn.Linear(cfg.d_model, heads * (key + val), bias=False)
        self.first = nn.Parameter(torch.randn(heads, number, val))
        self.seek, self.key = (nn.Parameter(torch.randn(heads, val, key) / math.sqrt(val)) for _ in range(2))
        self.seek_id, self.key_id = (nn.Parameter(torch.randn(heads, number, key)) for _ in range(2))
        self.seek_scale, self.key_scale = (nn.Parameter(torch.full((heads,), math.log(key) / 2)) for _ in range(2))
        self.gate = nn.Parameter(torch.randn(heads, val, parts * val) / math.sqrt(val))
        start = torch.tensor([0.0, 0.0, 3.0] if options.gate == "lstm" else [0.0, -3.0])  # remember some twenty batches
        self.bias = nn.Parameter(start.repeat_interleave(val).repeat(heads * number))  # [H*m*parts*V]

    @classmethod
    def check(cls, cfg: LayerConfig, options: SlotOptions) -> None:
        """`inner_batch` must be a multiple of `compress_every / rate`."""
        for key in ("number", "inner_batch"):
            whole(f"memory_options {key}", getattr(options, key), 1, MOST)
        whole_updates(cfg, options.inner_batch)
        if options.gate not in [*GATES]:
            raise ConfigError(f"memory_options gate={options.gate!r} is not known; choose 'lstm' or 'gru'")

    @classmethod
    def align(cls, options: SlotOptions) -> int:
        """Batches are counted from the cut."""
        return options.inner_batch

    def init(self, batch: int) -> SlotState:
        """The learned slots."""
        slots, base = (wide(self.first).repeat(batch, 1, 1, 1) for _ in range(2))
        return SlotState(slots, base, torch.zeros_like(slots), torch.zeros_like(slots[..., 0]))

    def queries(self, x: Tensor) -> Tensor:
        """q = l2(x W_q)."""
        return l2(self.query(x).unflatten(-1, (self.heads, self.key_dim)))

    def inputs(self, c: Tensor) -> Inputs:
        """key = l2(c W_k) [R, M, H, K], value = c W_v [R, M, H, V]."""
        key, value = self.write(c).split([self.heads * self.key_dim, self.heads * self.val_dim], -1)
        return {"key": l2(key.unflatten(-1, (self.heads, -1))), "value": value.unflatten(-1, (self.heads, -1))}

    def asking(self, slots: Tensor) -> Tensor:
        """tau q_s [..., H, m, K]: what slots [..., H, m, V] ask writes with."""
        scale = wide(self.seek_scale).exp()[:, None, None]
        return scale * l2(per_head(slots, self.seek) + self.seek_id)

    def addresses(self, slots: Tensor) -> Tensor:
        """tau' l2(slot_s W_key + J_s) [..., H, m, K]: what a query finds slots [..., H, m, V] by."""
        scale = wide(self.key_scale).exp()[:, None, None]
        return scale * l2(per_head(slots, self.key) + self.key_id)

    def gated(self, base: Tensor, found: Tensor) -> Tensor:
        """gate(base, a), each [..., H, m, V]."""
        parts = wide(per_head(found, self.gate)) + self.bias.view(self.heads, -1, self.gate.shape[-1])
        if self.options.gate == "gru":
            new, share = parts.chunk(2, -1)
            return torch.lerp(base, new.tanh(), share.sigmoid())
        new, enter, keep = parts.chunk(3, -1)
        return torch.addcmul(keep.sigmoid() * base, enter.sigmoid(), new.tanh())

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return inputs["key"], inputs["value"]

    def stages(self, state: State) -> tuple[Tensor, ...]:
        """The addresses, [K, m], and the slots."""
        slots = cast(SlotState, state).slots
        return (wide(self.addresses(slots)).transpose(-1, -2), slots)

    def join(self, stage: int, z: Tensor, query: Tensor) -> Tensor:
        """softmax over the slots between the matrices."""
        return wide(z).softmax(-1).to(z.dtype) if stage == 0 else z

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> SlotsWritten:
        """See Memory.scan; one chunk is one inner batch."""
        key, value = (wide(chunks(inputs[name], self.batch)) for name in ("key", "value"))
        there = None if valid is None else valid.unflatten(2, (-1, self.batch))
        now, seen, ends = cast(SlotState, state), [], []
        for s in range(key.shape[1]):
            for i in range(key.shape[3]):
                before = fresh(now) if i else choose(skip[:, s] > 0, now, fresh(now))
                score = wide(self.asking(before.base) @ key[:, s, :, i].transpose(-1, -2))
                if there is not None:
                    score = score.masked_fill(~there[:, s, None, None, i], -math.inf)
                seen.append((before, score))
                after = self._taken(before, score, value[:, s, :, i])
                now = after if there is None else choose(there[:, s, i].any(-1), after, now)
            ends.append(now)
        return SlotsWritten(self, seen, value, stacked(ends))

    def _taken(self, before: SlotState, score: Tensor, value: Tensor) -> SlotState:
        """A batch taken in: score [G, H, m, c] of its writes, value [G, H, c, V]."""
        all_scores = torch.cat([before.level.unsqueeze(-1), score], -1)
        weights = all_scores.softmax(-1)
        found = weights[..., :1] * before.found + weights[..., 1:] @ value
        return SlotState(self.gated(before.base, found), before.base, found, all_scores.logsumexp(-1))

    def step(self, inputs: Inputs, shift: int, state: State) -> SlotState:
        """See Memory.step."""
        now = cast(SlotState, state)
        before = now if shift else fresh(now)
        score = wide(self.asking(before.base) @ wide(inputs["key"]).unsqueeze(-1))
        return self._taken(before, score, wide(inputs["value"]).unsqueeze(-2))


class SlotsWritten(Written):
    """Slots during a call.

    seen    the state at each batch's start, and the scores [G, H, m, c] of its writes (-inf: none), piece after piece
    value   [G, S, H, n, c, V]
    """

    def __init__(self, memory: Slots, seen: list[tuple[SlotState, Tensor]], value: Tensor, ends: SlotState):
        self.memory, self.seen, self.value, self.ends = memory, seen, value, ends

    @cached_property
    def after(self) -> Tensor:
        """[G, S, L, H, m, V]: the slots after each write; like `Slots._taken`, for every beginning of a batch at once."""
        pieces, n = self.value.shape[1], self.value.shape[3]
        before = stacked([b for b, _ in self.seen]).map(lambda x: x.unflatten(1, (pieces, n)))
        score = torch.stack([s for _, s in self.seen], 1).unflatten(1, (pieces, n)).unsqueeze(4)  # [G, S, n, H, 1, m, c]
        size = score.shape[-1]
        late = torch.ones(size, size, dtype=torch.bool, device=score.device).triu(1).unsqueeze(1)
        score = score.masked_fill(late, -math.inf)  # [G, S, n, H, c, m, c]
        level = before.level[..., None, :, None].expand(*score.shape[:-1], 1)
        weights = torch.cat([level, score], -1).softmax(-1)
        near = weights[..., 1:].flatten(4, 5) @ self.value.transpose(2, 3)
        found = (weights[..., :1] * before.found.unsqueeze(4) + near.unflatten(4, (size, -1))).transpose(3, 4)
        return self.memory.gated(before.base.unsqueeze(3), found).flatten(2, 3)

    def read(self, stage: int, z: Tensor, group: int = 1) -> Tensor:
        """See Written."""
        after = self.after[:, :, group - 1 :: group]
        matrices = self.memory.addresses(after).transpose(-1, -2) if stage == 0 else after
        rows = z.unflatten(3, (matrices.shape[2], -1)).transpose(2, 3)  # [G, S, L, H, rate, in]
        return (rows @ matrices.to(z.dtype)).transpose(2, 3).flatten(3, 4)


def per_head(x: Tensor, weight: Tensor) -> Tensor:
    """x [..., H, m, V] through each head's own matrix [H, V, out]."""
    return torch.einsum("...hmv,hvk->...hmk", x, weight.to(x.dtype))


def fresh(state: SlotState) -> SlotState:
    """A new batch begins at these slots: nothing found, and a sum of 1."""
    return SlotState(state.slots, state.slots, torch.zeros_like(state.found), torch.zeros_like(state.level))


def choose(which: Tensor, one: SlotState, other: SlotState) -> SlotState:
    """The rows [G] of one state or the other."""
    pairs = [(getattr(one, name), getattr(other, name)) for name in vars(one)]
    return SlotState(*(torch.where(which.view(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in pairs))


def stacked(states: list[SlotState]) -> SlotState:
    """Leaves [G, number, ...]."""
    return SlotState(*(torch.stack([getattr(s, name) for s in states], 1) for name in vars(states[0])))
