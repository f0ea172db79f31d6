"""Chunk-parallel matrix memories: what linear, gated, gated_delta and deep share.

Inside a chunk of c writes every query sees the earlier writes through a masked c x c product; what came before the
chunk it sees through the state at the chunk's start. Decays are in log space. Source of the formulation:
arXiv 2312.06635 (chunkwise gated linear attention), arXiv 2412.06464 (gated delta rule).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops.norm import l2
from ..ops.transforms import at_work
from ..ops.widely import autocast_on
from ..state.tree import State
from .base import Inputs, Memory, Written, last_seen, wide


@dataclass
class MatrixState(State):
    """matrix [B, H, K, V], float32 or wider."""

    matrix: Tensor


class MatrixMemory(Memory):
    """A state S [H, K, V] of zeros, read by o = q S with unit queries; unit keys and values from the compressed token."""

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.chunk = 32 if self.key_dim <= 32 else 64
        self.query = nn.Linear(cfg.d_model, self.heads * self.key_dim, bias=False)
        self.write = nn.Linear(cfg.d_model, self.heads * (self.key_dim + self.val_dim), bias=False)

    def init(self, batch: int) -> MatrixState:
        """Zeros."""
        return MatrixState(wide(self.like.new_zeros(batch, self.heads, self.key_dim, self.val_dim)))

    def feature(self, z: Tensor) -> Tensor:
        """What queries and keys become after their projection: unit vectors."""
        return l2(z)

    def queries(self, x: Tensor) -> Tensor:
        """q = feature(x W_q)."""
        return self.feature(self.query(x).unflatten(-1, (self.heads, self.key_dim)))

    def inputs(self, c: Tensor) -> Inputs:
        """key = feature(c W_k) [R, M, H, K], value = c W_v [R, M, H, V]."""
        key, value = self.write(c).split([self.heads * self.key_dim, self.heads * self.val_dim], -1)
        return {"key": self.feature(key.unflatten(-1, (self.heads, -1))), "value": value.unflatten(-1, (self.heads, -1))}

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return inputs["key"], inputs["value"]

    def stages(self, state: State) -> tuple[Tensor, ...]:
        """S itself."""
        return (self.matrix(state),)

    def matrix(self, state: State) -> Tensor:
        """S of a state."""
        return cast(MatrixState, state).matrix

    def size(self, slots: int) -> int:
        """Length of a chunk where there are `slots` slots."""
        return slots // -(-slots // self.chunk)


def chunks(x: Tensor, size: int) -> Tensor:
    """[G, S, L, H, ...] -> [G, S, H, L/size, size, ...], laid out so that every product after it takes it as it is."""
    return x.unflatten(2, (-1, size)).movedim(4, 2).contiguous()


def decays(level: Tensor, diagonal: int, more: Tensor | None = None) -> Tensor:
    """Cumulative logs [.., c] -> exp(level_i - level_j + more_ij) where j < i + diagonal, else 0: [.., c, c]; more None: 0."""
    late = torch.ones(level.shape[-1], level.shape[-1], dtype=torch.bool, device=level.device).triu(diagonal)
    logs = level.unsqueeze(-1) - level.unsqueeze(-2)
    return (logs if more is None else logs + more).masked_fill(late, float("-inf")).exp()


def outer(key: Tensor, value: Tensor) -> Tensor:
    """k^T v: [..., K], [..., V] -> [..., K, V], float32 or wider."""
    return wide(key).unsqueeze(-1) * wide(value).unsqueeze(-2)


def plus(x: Tensor, a: Tensor, b: Tensor, factor: int = 1) -> Tensor:
    """x + factor a b, [G, n, m], [G, n, k], [G, k, m]; under autocast the product alone is narrow."""
    if autocast_on(x):
        return x + factor * (a @ b)
    return torch.baddbmm(x, a, b, alpha=factor)


class ChunkRead:
    """Reads of one matrix per head that grows by `keys^T values`, decayed:

        o_i = q_i S_in e^{l_i} + sum_{j<=i} e^{l_i-l_j} (q_i k_j) v_j

    keys [G, S, H, n, c, K], values [G, S, H, n, c, V], decay [G, S, H, n, c] (cumulative in the chunk, log space; None: none),
    before [G, S, H, n, K, V]: the matrix at each chunk's start. With a decay a channel, [G, S, H, n, c, K], the factor
    stands inside the product: sum_k q_ik e^{l_ik - l_jk} k_jk, taken from the chunk's middle so that neither half overflows.
    """

    def __init__(self, keys: Tensor, values: Tensor, decay: Tensor | None, before: Tensor):
        self.keys, self.values, self.decay, self.before = keys, values, decay, before

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, K] -> [G, S, H, L*rate, V]."""
        n, c = self.keys.shape[3:5]
        z = z.unflatten(3, (n, -1)).contiguous()
        each = z.shape[4] == c and group == 1  # a query a write, right after it
        seen = None if each else last_seen(c, z.shape[4], group, z.device)
        far, keys = z, self.keys.to(z.dtype)
        if self.decay is not None and self.decay.dim() == keys.dim():
            at = self.decay if seen is None else self.decay.index_select(-2, seen)
            middle = self.decay[..., c // 2 : c // 2 + 1, :].detach()  # it cancels out
            kind = torch.float32 if z.dtype == torch.float16 else z.dtype  # whose range holds such powers
            near, keys = z * (at - middle).exp().to(kind), keys * (middle - self.decay).exp().to(kind)
            scores, far = (near @ keys.transpose(-1, -2)).to(z.dtype), z * at.exp().to(z.dtype)
        else:
            scores = z @ keys.transpose(-1, -2)
        if self.decay is not None and self.decay.dim() < keys.dim():
            at = self.decay if seen is None else self.decay.index_select(-1, seen)
            fade = _exp((at.unsqueeze(-1) - self.decay.unsqueeze(-2)).clamp(max=0.0))
            scores = scores * fade.to(z.dtype)
            far = z * at.exp().unsqueeze(-1).to(z.dtype)
        if seen is None:
            scores = scores.tril() if torch.is_grad_enabled() or at_work() else scores.tril_()
        else:
            scores = scores.masked_fill(torch.arange(c, device=z.device) > seen.unsqueeze(-1), 0.0)
        far = far @ self.before.to(z.dtype)
        return (scores @ self.values.to(z.dtype) + far).flatten(3, 4)


def _exp(x: Tensor) -> Tensor:
    return x.exp() if torch.is_grad_enabled() or at_work() else x.exp_()


class MatrixWritten(Written):
    """A one-stage memory during a call."""

    def __init__(self, reader: ChunkRead, ends: Tensor):
        self.reader, self.ends = reader, MatrixState(ends)

    def read(self, stage: int, z: Tensor, group: int = 1) -> Tensor:
        """See Written."""
        return self.reader.read(z, group)

    def carried(self, group: slice, states: State, before: State | None, after: State) -> State | None:
        """See Written: T(S) = T(S') + (T(S) - T(S')), as the rule is affine in its matrix."""
        if not isinstance(states, MatrixState) or not isinstance(after, MatrixState):
            return None
        apart = states.matrix if before is None else states.matrix - cast(MatrixState, before).matrix.unsqueeze(1)
        return MatrixState(self.follow(group, apart) + after.matrix.unsqueeze(1))

    def follow(self, group: slice, apart: Tensor) -> Tensor:
        """T(S) - T(S') for the writes T of some groups (one piece each), given S - S' [R, X, H, K, V]: decayed."""
        if self.reader.decay is None:
            return apart
        total = self.reader.decay[group, 0, :, :, -1].sum(2)
        return (total.exp()[:, None, :, None, None] if total.dim() == 2 else total.exp()[:, None, ..., None]) * apart


def additive(keys: Tensor, values: Tensor, decay: Tensor | None, start: Tensor) -> MatrixWritten:
    """S <- e^{decay} S + k^T v, chunk by chunk: keys, values, decay as in ChunkRead, start [G, H, K, V]."""
    if decay is None:
        grow, keep = keys.transpose(-1, -2) @ values, None
    elif decay.dim() == keys.dim():
        total = decay[..., -1:, :]
        grow = (keys * (total - decay).exp().to(keys.dtype)).transpose(-1, -2) @ values
        keep = total.exp().transpose(-1, -2)
    else:
        total = decay[..., -1:]
        grow = (keys * (total - decay).exp().unsqueeze(-1).to(keys.dtype)).transpose(-1, -2) @ values
        keep = total.exp().unsqueeze(-1)
    before, ends = fold(wide(grow), keep, start)
    return MatrixWritten(ChunkRead(keys, values, decay, before), ends)


def fold(grow: Tensor, keep: Tensor | None, start: Tensor) -> tuple[Tensor, Tensor]:
    """S <- keep S + grow, chunk by chunk.

    grow [G, S, H, n, K, V], keep the same or 1 wide (None: 1), start [G, H, K, V] -> S before each chunk [G, S, H, n, K, V], and
    after each piece [G, S, H, K, V].
    """
    pieces, n = grow.shape[1], grow.shape[3]
    state = start
    steps = grow.transpose(2, 3).flatten(1, 2).unbind(1)
    fades = None if keep is None else keep.transpose(2, 3).flatten(1, 2).unbind(1)
    before, ends = [], []
    for i, step in enumerate(steps):
        before.append(state)
        state = state + step if fades is None else torch.addcmul(step, fades[i], state)
        if i % n == n - 1:
            ends.append(state)
    return torch.stack(before, 2).unflatten(2, (pieces, n)).transpose(1, 2), torch.stack(ends, 1)
