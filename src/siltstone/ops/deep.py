"""Deep linear attention: a step on L = -<M(k), v>, W <- W - eta grad L(W_base) for W_in and W_out, that is,

    W_out <- W_out + eta h^T v,   W_in <- W_in + eta k^T ((v W_out^T) * gelu'(k W_in)),   h = gelu(k W_in)

Source: arXiv 2602.24281, section 4 (DLA). A state is the current w_in, w_out, and both at the running batch's start.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chunked import ChunkRead, Opt, chunks, masked
from .mlp import based, batches, begun, gathered, hidden_units, leaves, pair, pushed, restarted, unpair
from .upcast import upcast

Leaves = tuple[Tensor, ...]


def step(state: Leaves, key: Tensor, value: Tensor, eta: Tensor, *, most: Tensor | None, begins: Tensor | None) -> Leaves:
    """One write: leaves [G, H, ...], key, value [G, H, K], eta [G, H].

    begins: bool [G], it is the first of its batch; None: every write is.
    """
    w, base = pair(*state[:2]), pair(*state[2:])
    w, base = restarted(w, base, most, begins)
    k, v = upcast(key).unsqueeze(-2), eta[..., None, None] * upcast(value).unsqueeze(-2)
    at_in, at_out = base.unbind(0)
    z, h = hidden_units(at_in, k)
    w_in, w_out = unpair(w)
    w_in, w_out = w_in + k.transpose(-1, -2) @ pushed(at_out, z, v), w_out + h.transpose(-1, -2) @ v
    return w_in, w_out, *unpair(base)


def chunk(
    state: Leaves, key: Tensor, value: Tensor, eta: Tensor, *, most: Opt, valid: Opt = None, skip: Opt = None, size: int = 16
) -> tuple[tuple[ChunkRead, ChunkRead], Leaves]:
    """`step` for [G, S, L, H, ...] each -> readers of W_in and W_out, and the state after each segment chunk; a chunk is a batch.

    Inside a batch the steps add up: both matrices grow as in `chunked.ChunkRead`.
    """
    k_all, v_all = upcast(chunks(key, size)), upcast(chunks(value, size))
    pull = chunks(masked(eta, valid), size).unsqueeze(-1) * v_all
    segment_chunks, n = k_all.shape[1], k_all.shape[3]
    w, base = pair(*state[:2]), pair(*state[2:])
    before, pushes, hiddens, ends = [], [], [], []
    for i, (k, p, begins) in enumerate(
        zip(batches(k_all), batches(pull), begun(valid, skip, size, segment_chunks * n), strict=True)
    ):
        w, base = based(w, base, most, begins)
        at_in, at_out = base.unbind(0)
        z, hidden = hidden_units(at_in, k)
        push = pushed(at_out, z, p)
        for kept, x in zip((before, pushes, hiddens), (w, push, hidden), strict=True):
            kept.append(x)
        w = w + torch.stack([k, p]).transpose(-1, -2) @ torch.stack([push, hidden])
        if i % n == n - 1:
            ends.append((w, base))
    push, hidden = gathered(pushes, segment_chunks), gathered(hiddens, segment_chunks)
    was_in, was_out = unpair(gathered(before, segment_chunks, 1))
    return (ChunkRead(k_all, push, None, was_in), ChunkRead(hidden, pull, None, was_out)), leaves(ends)
