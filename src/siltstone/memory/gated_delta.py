"""Gated delta rule: S_t = a_t (I - b_t k_t^T k_t) S_{t-1} + b_t k_t^T v_t, o = q S, with unit keys.

    log a = logsigmoid(c W_a),   b = sigmoid(c W_b), with `negative` 2 sigmoid(c W_b)        one of each a head, each with a bias

A write first erases what its key held. Source: arXiv 2412.06464, eq. 10 and its chunk form (WY representation: one
triangular solve a chunk). State: H * K * V floats.
Cost: 4 * H * K * V.

For: facts that change, in texts of any length; the first choice for recall.
Can: replace what a key holds in one write; forget all of it, as fast as each token says; recall K orthogonal keys a head
exactly; with `negative`, decide parity and follow swaps (arXiv 2411.12537).
Cannot: hold more than K keys a head apart; replace what an earlier segment sealed, where segments restart (`start="carry"`).
Without `negative`, parity is out of reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..config.layer import LayerConfig
from ..errors import ConfigError
from ..state.tree import State
from .base import Inputs, wide
from .chunked import ChunkRead, MatrixState, MatrixWritten, chunks, decays, outer, plus
from .gated import GatedMatrixMemory


class DeltaWritten(MatrixWritten):
    """A chunk maps S to keep S - to_end (erase S) + ...

    keep [G, S, H, n, 1, 1], erase [G, S, H, n, c, K], to_end [G, S, H, n, K, c].
    """

    def __init__(self, reader: ChunkRead, ends: Tensor, keep: Tensor, erase: Tensor, to_end: Tensor):
        super().__init__(reader, ends)
        self.steps = keep, erase, to_end

    def follow(self, group: slice, apart: Tensor) -> Tensor:
        """See MatrixWritten."""
        keep, erase, to_end = (x[group, 0].unsqueeze(1).unbind(3) for x in self.steps)
        for fade, old, late_key in zip(keep, erase, to_end, strict=True):
            apart = fade * apart - late_key @ (old @ apart)
        return apart


@dataclass(frozen=True)
class DeltaOptions:
    """negative: strengths b up to 2 instead of 1, so that a write may turn a state's sign over (arXiv 2411.12537)."""

    negative: bool = False


class GatedDelta(GatedMatrixMemory):
    """S <- a (I - b k^T k) S + b k^T v."""

    name: ClassVar[str] = "gated_delta"
    Options = DeltaOptions
    variants = ({"negative": True},)

    @classmethod
    def check(cls, cfg: LayerConfig, options: DeltaOptions) -> None:
        """Options of the right kind."""
        if not isinstance(options.negative, bool):
            raise ConfigError(f"memory_options negative={options.negative!r} must be true or false")

    def inputs(self, c: Tensor) -> Inputs:
        """key, value, decay (log space), and strength in (0, 1), or (0, 2) with `negative`."""
        found = super().inputs(c)
        return found | {"strength": 2 * found["strength"]} if self.options.negative else found

    def scan(self, inputs: Inputs, valid: Tensor | None, skip: Tensor, state: State) -> MatrixWritten:
        """See Memory.scan. Inside a chunk: (I + tril(b k k^T e^{l_i - l_j}, -1)) [u w] = b [v, k e^{l}]; new values u - w S."""
        decay, strength = inputs["decay"], inputs["strength"]
        if valid is not None:
            decay, strength = decay * valid.unsqueeze(-1), strength * valid.unsqueeze(-1)
        size = self.size(decay.shape[2])
        key, value = chunks(inputs["key"], size), chunks(inputs["value"], size)
        wide_key, wide_value = wide(key), wide(value)
        level = chunks(decay, size).cumsum(-1)
        b = chunks(strength, size).unsqueeze(-1)
        system = (b * wide_key) @ wide_key.transpose(-1, -2) * decays(level, 0) + torch.eye(
            size, device=key.device, dtype=wide_key.dtype
        )
        right = torch.cat([b * wide_value, b * wide_key * level.exp().unsqueeze(-1)], -1)
        solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        fresh, erase = solved.split([value.shape[-1], key.shape[-1]], -1)
        total = level[..., -1:]
        to_end = (wide_key * (total - level).exp().unsqueeze(-1)).transpose(-1, -2)
        keep, matrix = total.exp().unsqueeze(-1), self.matrix(state)
        before, values, ends = [], [], []
        pieces, n, (groups, heads) = key.shape[1], key.shape[3], matrix.shape[:2]
        matrix = matrix.flatten(0, 1)
        steps = (x.transpose(2, 3).flatten(1, 2).transpose(0, 1).flatten(1, 2).unbind(0) for x in (fresh, erase, keep, to_end))
        for i, (new, old, fade, late_key) in enumerate(zip(*steps, strict=True)):
            before.append(matrix)
            values.append(plus(new, old, matrix, -1))
            matrix = plus(fade * matrix, late_key, values[-1])
            if i % n == n - 1:
                ends.append(matrix)
        shape = (groups, heads, pieces, n)
        stack = [torch.stack(x, 1).view(*shape, *x[0].shape[1:]).transpose(1, 2) for x in (before, values)]
        last = torch.stack(ends, 1).unflatten(0, (groups, heads)).transpose(1, 2)
        return DeltaWritten(ChunkRead(key, stack[1].to(value.dtype), level, stack[0]), last, keep, erase, to_end)

    def step(self, inputs: Inputs, shift: int, state: State) -> MatrixState:
        """See Memory.step: S <- a S + b k^T (v - k (a S))."""
        faded = inputs["decay"].exp()[..., None, None] * self.matrix(state)
        key, value = wide(inputs["key"]), wide(inputs["value"])
        held = (key.unsqueeze(-2) @ faded).squeeze(-2)
        return MatrixState(faded + outer(key, inputs["strength"].unsqueeze(-1) * (value - held)))
