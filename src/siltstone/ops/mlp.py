"""Memories that are a small MLP, M(q) = q + gelu(q W_in) W_out, trained at inference: shared by deep and titans.

W_in [..., H, K, F] and W_out [..., H, F, K]. A batch of writes takes its gradients at the weights at the batch's start; there
a matrix with a norm above `most` is scaled down to it. In a pair W_out is transposed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pair(w_in: Tensor, w_out: Tensor) -> Tensor:
    """Both matrices in one tensor, [2, G, H, K, F], the second transposed: one call then processes both."""
    return torch.stack([w_in, w_out.transpose(-1, -2)])


def unpair(both: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `pair`: [2, ..., K, F] -> [..., K, F] and [..., F, K]."""
    w_in, w_out = both.unbind(0)
    return w_in, w_out.transpose(-1, -2)


def activation(factor: int, z: Tensor, query: Tensor) -> Tensor:
    """gelu between the matrices; the query is added after them."""
    return F.gelu(z) if factor == 0 else query + z


def hidden_units(w_in: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """k W_in and gelu(k W_in), [G, H, c, F], of keys [G, H, c, K]."""
    z = key @ w_in
    return z, F.gelu(z)


def pushed(w_out: Tensor, z: Tensor, pull: Tensor) -> Tensor:
    """(pull W_out^T) * gelu'(z) [G, H, c, F], for pull [G, H, c, K]; w_out [G, H, K, F] as in a pair.

    If a write adds h^T pull to W_out, it adds k^T times this result to W_in.
    """
    return torch.ops.aten.gelu_backward(pull @ w_out, z)


def norms(both: Tensor) -> Tensor:
    """Frobenius norms of matrices [..., K, F] -> [..., 1, 1]."""
    return torch.linalg.vector_norm(both, dim=(-2, -1), keepdim=True)


def limited(both: Tensor, most: Tensor | None, begins: Tensor | None = None) -> Tensor:
    """W min(1, most / |W|), per head and matrix, in the groups where a batch begins (None: all)."""
    if most is None:
        return both
    less = (most / norms(both).clamp(min=1e-12)).clamp(max=1.0)
    return both * (less if begins is None else less.where(begins, less.new_ones(())))


def based(w: Tensor, base: Tensor, most: Tensor | None, begins: Tensor | None) -> tuple[Tensor, Tensor]:
    """The weights, and the base weights for a batch's gradients: where a batch begins (None: everywhere), limited to `most`."""
    w = limited(w, most, begins)
    return w, w if begins is None else torch.where(begins, w, base)


def restarted(w: Tensor, base: Tensor, most: Tensor | None, begins: Tensor | None) -> tuple[Tensor, Tensor]:
    """`based` for one write: begins bool [G], the groups where a batch begins with it."""
    return based(w, base, most, None if begins is None else begins.view(-1, 1, 1, 1))


def begun(valid: Tensor | None, skip: Tensor | None, size: int, count: int) -> list[Tensor | None]:
    """For each batch of each segment chunk: the groups where it begins in this call, bool [G, 1, 1, 1]; None: all of them.

    A batch does not begin if nothing is written, or if a segment chunk resumes in the middle of its first batch.
    """
    if valid is None or skip is None:
        return [None] * count
    wrote = valid.unflatten(2, (-1, size)).any(-1)
    wrote[:, :, 0] &= skip == 0
    return list(wrote.flatten(1, 2)[..., None, None, None].unbind(1))


def batches(x: Tensor) -> tuple[Tensor, ...]:
    """[G, S, H, n, ...] -> one [G, H, ...] for each batch of each segment chunk, in order."""
    return x.transpose(2, 3).flatten(1, 2).unbind(1)


def gathered(x: list[Tensor], segment_chunks: int, first: int = 0) -> Tensor:
    """The inverse of `batches`: [G, S, H, n, ...]; for pairs (first = 1) [2, G, S, H, n, ...]."""
    return torch.stack(x, first + 2).unflatten(first + 2, (segment_chunks, -1)).transpose(first + 1, first + 2)


def leaves(ends: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The leaves [G, S, ...] of a state after each segment chunk, from its pairs, as separate tensors."""
    pairs = [unpair(torch.stack(x, 2)) for x in zip(*ends, strict=True)]
    return tuple(x.clone(memory_format=torch.contiguous_format) for two in pairs for x in two)
