"""Gated delta rule: S_t = a_t (I - b_t k_t^T k_t) S_{t-1} + b_t k_t^T v_t, o = q S, with unit keys.

Source: arXiv 2412.06464, eq. 10 and its chunk form (WY representation: one triangular solve per chunk).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chunked import ChunkRead, chunks, decays, length, masked, outer, plus
from .upcast import upcast


def step(matrix: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor) -> Tensor:
    """One write into S [..., H, K, V], eq. 10 as S <- a S + b k^T (v - k (a S)).

    key [..., H, K], value [..., H, V], log a and b [..., H].
    """
    return replace(log_decay.exp()[..., None, None] * matrix, key, value, beta)


def replace(matrix: Tensor, key: Tensor, value: Tensor, beta: Tensor) -> Tensor:
    """S + b k^T (v - k S)."""
    key, value = upcast(key), upcast(value)
    held = (key.unsqueeze(-2) @ matrix).squeeze(-2)
    return matrix + outer(key, beta.unsqueeze(-1) * (value - held))


def chunk(
    matrix: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, beta: Tensor, *, valid: Tensor | None = None, size: int = 64
) -> tuple[DeltaRead, Tensor]:
    """`step` for [G, S, L, H, ...] each -> a reader of S, and S after each segment chunk [G, S, H, K, V].

    Inside a chunk, with l the running sum of log a:

        (I + tril(b k k^T e^{l_i - l_j}, -1)) [u w] = b [v, k e^l],   new values  u - w S_in
        S_out = e^{l_c} S_in + (k e^{l_c - l})^T (u - w S_in)
    """
    c = length(log_decay.shape[2], size)
    log_decay, beta = masked(log_decay, valid), masked(beta, valid)
    key, value = chunks(key, c), chunks(value, c)
    wide_key, wide_value = upcast(key), upcast(value)
    level = chunks(log_decay, c).cumsum(-1)
    b = chunks(beta, c).unsqueeze(-1)
    eye = torch.eye(c, device=key.device, dtype=wide_key.dtype)
    system = (b * wide_key) @ wide_key.transpose(-1, -2) * decays(level, 0) + eye
    right = torch.cat([b * wide_value, b * wide_key * level.exp().unsqueeze(-1)], -1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    fresh, erase = solved.split([value.shape[-1], key.shape[-1]], -1)  # u, w
    total = level[..., -1:]
    to_end = (wide_key * (total - level).exp().unsqueeze(-1)).transpose(-1, -2)
    keep = total.exp().unsqueeze(-1)
    before, values, ends = [], [], []
    segment_chunks, n, (groups, heads) = key.shape[1], key.shape[3], matrix.shape[:2]
    matrix = matrix.flatten(0, 1)
    steps = (x.transpose(2, 3).flatten(1, 2).transpose(0, 1).flatten(1, 2).unbind(0) for x in (fresh, erase, keep, to_end))
    for i, (new, old, fade, late_key) in enumerate(zip(*steps, strict=True)):
        before.append(matrix)
        values.append(plus(new, old, matrix, -1))  # u - w S
        matrix = plus(fade * matrix, late_key, values[-1])
        if i % n == n - 1:
            ends.append(matrix)
    shape = (groups, heads, segment_chunks, n)
    starts, written = (torch.stack(x, 1).view(*shape, *x[0].shape[1:]).transpose(1, 2) for x in (before, values))
    last = torch.stack(ends, 1).unflatten(0, (groups, heads)).transpose(1, 2)
    return DeltaRead(ChunkRead(key, written.to(value.dtype), level, starts), keep, erase, to_end), last


class DeltaRead(ChunkRead):
    """Reads S; a chunk maps S to keep S - to_end (erase S) + ...

    keep [G, S, H, n, 1, 1], erase [G, S, H, n, c, K], to_end [G, S, H, n, K, c].
    """

    def __init__(self, read: ChunkRead, keep: Tensor, erase: Tensor, to_end: Tensor):
        super().__init__(read.keys, read.values, read.decay, read.before)
        self.steps = keep, erase, to_end

    def propagate(self, group: slice, apart: Tensor) -> Tensor:
        """See Reader."""
        keep, erase, to_end = (x[group, 0].unsqueeze(1).unbind(3) for x in self.steps)
        for fade, old, late_key in zip(keep, erase, to_end, strict=True):
            apart = fade * apart - late_key @ (old @ apart)
        return apart
