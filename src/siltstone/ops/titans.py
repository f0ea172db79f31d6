"""Titans: L = |M(k) - v|^2, S <- eta S - theta grad L(W_base), W <- (1 - alpha) W + S, for W_in and W_out alike.

Inside a batch both recurrences are linear, W_i = a_i W_0 + d_i S_0 + sum_{j<=i} C_ij (-theta_j grad_j) with C the product of two
triangular matrices of decays. Source: arXiv 2501.00663, eqs. 12 to 14. A state is the current w_in, w_out, both at the start of
the running batch, and the momenta of both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .chunked import Opt, Reader, chunks, decays, last_seen
from .mlp import based, batches, begun, gathered, hidden_units, leaves, pair, pushed, restarted, unpair
from .upcast import upcast

Leaves = tuple[Tensor, ...]


def step(
    state: Leaves, key: Tensor, value: Tensor, log_keep: Tensor, log_momentum: Tensor, theta: Tensor, *, most: Opt, begins: Opt
) -> Leaves:
    """One write: leaves [G, H, ...], key, value [G, H, K], log (1 - alpha), log eta and theta [G, H].

    begins: bool [G], it is the first of its batch; None: every write is.
    """
    w, base, moment = (pair(*two) for two in (state[:2], state[2:4], state[4:]))
    w, base = restarted(w, base, most, begins)
    k, v = upcast(key).unsqueeze(-2), upcast(value).unsqueeze(-2)
    at_in, at_out = base.unbind(0)
    z, h = hidden_units(at_in, k)
    miss = -2 * theta[..., None, None] * (k + h @ at_out.transpose(-1, -2) - v)  # -theta grad of M(k), eq. 12
    grads = pair(k.transpose(-1, -2) @ pushed(at_out, z, miss), h.transpose(-1, -2) @ miss)
    moment = log_momentum.exp()[..., None, None] * moment + grads  # eq. 14
    w = log_keep.exp()[..., None, None] * w + moment  # eq. 13
    return *unpair(w), *unpair(base), *unpair(moment)


def chunk(
    state: Leaves,
    key: Tensor,
    value: Tensor,
    log_keep: Tensor,
    log_momentum: Tensor,
    theta: Tensor,
    *,
    most: Tensor | None,
    valid: Tensor | None = None,
    skip: Tensor | None = None,
    size: int = 16,
) -> tuple[tuple[MomentumRead, MomentumRead], Leaves]:
    """`step` for [G, S, L, H, ...] each -> readers of W_in and W_out, and the state after each segment chunk.

    size: writes of a batch.
    """
    there = torch.ones_like(theta)
    if valid is not None:
        there = there * valid.unsqueeze(-1)
        log_keep, log_momentum, theta = log_keep * there, log_momentum * there, theta * there
    key, value = upcast(chunks(key, size)), upcast(chunks(value, size))
    kept, moved = chunks(log_keep, size).cumsum(-1), chunks(log_momentum, size).cumsum(-1)
    theta, there = chunks(theta, size).unsqueeze(-1), chunks(there, size)
    log_decay, carrying = (decays(x, 1) for x in (kept, moved))
    factor = (log_decay * there.unsqueeze(-2)) @ carrying  # C
    decay, drift = kept.exp().unsqueeze(-1), (log_decay * (there * moved.exp()).unsqueeze(-2)).sum(-1, keepdim=True)  # a, d
    segment_chunks, n = key.shape[1], key.shape[3]
    share = torch.stack([factor[..., -1, :], carrying[..., -1, :]], -1).unsqueeze(-1)  # of each write in W and S at the end
    last = zip(*(batches(x[..., -1:, :]) for x in (decay, drift, moved.exp().unsqueeze(-1))), strict=True)
    given = batches(key), batches(key - value), batches(-2 * theta), batches(share)
    w, base, moment = (pair(*two) for two in (state[:2], state[2:4], state[4:]))
    seen: list[list[Tensor]] = [[] for _ in range(5)]
    ends = []
    for i, (k, away, rate, part, (kept, drifts, moves), begins) in enumerate(
        zip(*given, last, begun(valid, skip, size, segment_chunks * n), strict=True)
    ):
        w, base = based(w, base, most, begins)
        at_in, at_out = base.unbind(0)
        z, hidden = hidden_units(at_in, k)
        miss = rate * (away + hidden @ at_out.transpose(-1, -2))
        push = pushed(at_out, z, miss)
        for before, x in zip(seen, (w, moment, push, hidden, miss), strict=True):
            before.append(x)
        ins, outs = torch.stack([k, miss]), torch.stack([push, hidden])
        grown, more = ((ins.unsqueeze(-2) * part).flatten(-2).transpose(-1, -2) @ outs).unflatten(-2, (2, -1)).unbind(-3)
        w = torch.addcmul(torch.addcmul(grown, kept, w), drifts, moment)
        moment = torch.addcmul(more, moves, moment)
        if i % n == n - 1:
            ends.append((w, base, moment))
    push, hidden, miss = (gathered(x, segment_chunks) for x in seen[2:])
    (was_in, was_out), (mom_in, mom_out) = (unpair(gathered(x, segment_chunks, 1)) for x in seen[:2])
    rates = factor, decay, drift
    return (MomentumRead(key, push, rates, was_in, mom_in), MomentumRead(hidden, miss, rates, was_out, mom_out)), leaves(ends)


class MomentumRead(Reader):
    """o_i = fade_i q_i W_0 + drift_i q_i S_0 + sum_{j<=i} factor_ij (q_i k_j) v_j.

    keys [G, S, H, n, c, K], values [G, S, H, n, c, V], factor [G, S, H, n, c, c], fade, drift [G, S, H, n, c, 1],
    before, momentum [G, S, H, n, K, V]: at each batch's start.
    """

    def __init__(self, keys: Tensor, values: Tensor, rates: tuple[Tensor, Tensor, Tensor], before: Tensor, momentum: Tensor):
        self.parts = keys, values, *rates, before, momentum

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, K] -> [G, S, H, L*rate, V]."""
        n, c = self.parts[0].shape[3:5]
        z = z.unflatten(3, (n, -1))
        kind, z = z.dtype, upcast(z)  # the terms nearly cancel
        keys, values, factor, decay, drift, before, momentum = self.parts
        if z.shape[4] > c or group > 1:
            seen = last_seen(c, z.shape[4], group, z.device)
            factor, decay, drift = (x.index_select(4, seen) for x in (factor, decay, drift))
        near = (z @ keys.transpose(-1, -2) * factor) @ values
        return torch.addcmul(torch.addcmul(near, decay, z @ before), drift, z @ momentum).flatten(3, 4).to(kind)
