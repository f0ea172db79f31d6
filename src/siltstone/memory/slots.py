"""Slots: m vectors per head, slot <- gate(base, attention of base over a batch of writes), o = softmax(q A^T) slots.

Slot s attends with a unit query to the writes j of the running batch, from the batch's start to the current write:

    q_s = l2(base_s W_seek + I_s),   e_sj = exp(tau <q_s, k_j>),   a_s = sum_j e_sj v_j / (1 + sum_j e_sj)
    lstm:  slot_s = sigmoid(f) base_s + sigmoid(i) tanh(z),     (z, i, f) = a_s W + b_s
    gru:   slot_s = (1 - u) base_s + u tanh(z), u = sigmoid(~u),   (z, ~u) = a_s W + b_s
    read:  o = sum_s softmax_s(tau' <q, A_s>) slot_s,   A_s = l2(slot_s W_key + J_s)

W_seek, W_key, W, I, J, b, tau and tau' are learned, one set per head; base is the slots in force at the last multiple of
`inner_batch` writes since the segment's cut (inner_batch = 1: a recurrence over writes). The 1 in the denominator lets a slot
attend to nothing: without it a batch of one write would fill all slots alike. The initial slots are learned vectors.
Source: arXiv 2203.07852 (slots with learned identities, LSTM gates that see the attention result); u as in a GRU, arXiv
1406.1078. State: 3 * H * m * V + H * m floats.
Cost: H * m * (2 * K * V + 3 * V^2 + 2 * K + 2 * V).

For: a few items to be kept separately.
Can: keep m vectors per head, each with its own gates, which can also forget; recall about m items per head (the toy of
docs/family.md has 16 slots for 12 keys, so it does not test capacity).
Cannot: use changes of the current batch in its attention (slots query as they were when the batch began); keep more than m items
apart; be merged. In the toy it does not learn parity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ..config.checks import whole, whole_updates
from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..ops import slots
from ..ops.norm import l2
from ..ops.upcast import upcast
from ..state.tree import State
from .base import MOST, Inputs, ScanOutput
from .inner_batch import InnerBatchMemory

GATES = {"lstm": 3, "gru": 2}


@dataclass(frozen=True)
class SlotOptions:
    """number: m, slots per head. inner_batch: writes that slots attend to together. gate: "lstm" or "gru"."""

    number: int = 16
    inner_batch: int = 16
    gate: str = "lstm"


@dataclass
class SlotState(State):
    """slots [B, H, m, V]: the current slots; `base`: the slots at the running batch's start; found [B, H, m, V]: the batch's a
    so far; level [B, H, m]: the log of the denominator of a."""

    slots: Tensor
    base: Tensor
    found: Tensor
    level: Tensor


class Slots(InnerBatchMemory):
    """slot <- gate(base, attention of base over the batch's writes so far)."""

    name: ClassVar[str] = "slots"
    Options = SlotOptions
    adds_up = False

    def __init__(self, cfg: LayerConfig, options: SlotOptions):
        super().__init__(cfg, options)
        number, parts = options.number, GATES[options.gate]
        heads, key, val = self.heads, self.key_dim, self.val_dim
        self.write = nn.Linear(cfg.d_model, heads * (key + val), bias=False)
        self.first = nn.Parameter(torch.randn(heads, number, val))
        self.seek, self.key = (nn.Parameter(torch.randn(heads, val, key) / math.sqrt(val)) for _ in range(2))
        self.seek_id, self.key_id = (nn.Parameter(torch.randn(heads, number, key)) for _ in range(2))
        self.seek_scale, self.key_scale = (nn.Parameter(torch.full((heads,), math.log(key) / 2)) for _ in range(2))
        self.gate = nn.Parameter(torch.randn(heads, val, parts * val) / math.sqrt(val))
        start = torch.tensor([0.0, 0.0, 3.0] if options.gate == "lstm" else [0.0, -3.0])  # memory span: about twenty batches
        self.bias = nn.Parameter(start.repeat_interleave(val).repeat(heads * number))  # [H*m*parts*V]

    @classmethod
    def check(cls, cfg: LayerConfig, options: SlotOptions) -> None:
        """`inner_batch` must be a multiple of `compress_every / rate`."""
        for key in ("number", "inner_batch"):
            whole(f"memory_options {key}", getattr(options, key), 1, MOST)
        whole_updates(cfg, options.inner_batch)
        if options.gate not in [*GATES]:
            raise ConfigError(f"memory_options gate={options.gate!r} is not known; choose 'lstm' or 'gru'")

    def init(self, batch: int) -> SlotState:
        """The learned slots."""
        now, base = (upcast(self.first).repeat(batch, 1, 1, 1) for _ in range(2))
        return SlotState(now, base, torch.zeros_like(now), torch.zeros_like(now[..., 0]))

    def inputs(self, c: Tensor) -> Inputs:
        """key = l2(c W_k) [R, M, H, K], value = c W_v [R, M, H, V]."""
        key, value = self.write(c).split([self.heads * self.key_dim, self.heads * self.val_dim], -1)
        return {"key": l2(key.unflatten(-1, (self.heads, -1))), "value": value.unflatten(-1, (self.heads, -1))}

    def weights(self) -> slots.Weights:
        """The learned weights of the equations."""
        seek, key = (self.seek, self.seek_id, self.seek_scale), (self.key, self.key_id, self.key_scale)
        return slots.Weights(*seek, *key, self.gate, self.bias)

    def read_factors(self, state: State) -> tuple[Tensor, ...]:
        """The addresses A^T, [K, m], and the slots, [m, V]."""
        now = cast(SlotState, state).slots
        return (upcast(slots.addresses(now, self.weights())).transpose(-1, -2), now)

    def activation(self, factor: int, z: Tensor, query: Tensor) -> Tensor:
        """softmax over the slots, between the two matrices."""
        return slots.activation(factor, z)

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> ScanOutput:
        """See Memory.scan; one chunk is one inner batch."""
        given = _leaves(state), inputs["key"], inputs["value"], self.weights()
        readers, ends = slots.chunk(*given, valid=valid, skip=skip, size=self.batch)
        return ScanOutput(SlotState(*ends), *readers)

    def step(self, inputs: Inputs, begins: Tensor | None, state: State) -> SlotState:
        """See Memory.step."""
        return SlotState(*slots.step(_leaves(state), inputs["key"], inputs["value"], self.weights(), begins=begins))


def _leaves(state: State) -> slots.Leaves:
    now = cast(SlotState, state)
    return slots.Leaves(now.slots, now.base, now.found, now.level)
