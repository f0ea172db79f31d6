"""mLSTM: C_t = f_t C_{t-1} + i_t k_t^T v_t, n_t = f_t n_{t-1} + i_t k_t, o = q C / max(|q n|, 1).

Source: arXiv 2405.04517, eqs. 19 to 21; the stabiliser, eq. 15, here never below 0 (the reason: memory/mlstm.py).
A state is [C, n] e^-m [..., H, K, V + 1] and m [..., H]. Values end with a 1, which makes n a column of the matrix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunked import Opt, Reader, chunks, decays, last_seen, length, masked, outer
from .upcast import upcast
from .weighted import WeightedRead, weighted

Leaves = tuple[Tensor, Tensor]


def step(state: Leaves, key: Tensor, value: Tensor, log_forget: Tensor, log_input: Tensor) -> Leaves:
    """One write: key [..., H, K], value [..., H, V + 1], log f and log i [..., H]."""
    matrix, m_before = state
    left = log_forget + m_before
    m = torch.maximum(left, log_input).detach().clamp(min=0.0)  # eq. 15
    new = outer(key, upcast(value) * (log_input - m).exp().unsqueeze(-1))  # eqs. 16 and 17: i' and f'
    return torch.addcmul(new, (left - m).exp()[..., None, None], matrix), m  # eqs. 19 and 20


def chunk(
    state: Leaves, key: Tensor, value: Tensor, log_forget: Tensor, log_input: Tensor, *, valid: Opt = None, size: int = 64
) -> tuple[MlstmRead, Leaves]:
    """`step` for [G, S, L, H, ...] each -> a reader of the matrix, and the state after each segment chunk [G, S, H, ...]."""
    c = length(log_forget.shape[2], size)
    if valid is not None:
        log_input = log_input.masked_fill(~valid.unsqueeze(-1), float("-inf"))
    level, enter = chunks(masked(log_forget, valid), c).cumsum(-1), chunks(log_input, c)
    m, first = stabilisers(level.detach(), enter.detach(), state[1].detach())
    weight = decays(level, 1, enter.unsqueeze(-2) - m.unsqueeze(-1))
    fade = (level + first.unsqueeze(-1) - m).exp()
    reader, ends = weighted(chunks(key, c), chunks(value, c), weight, fade, state[0])
    return MlstmRead(reader, (-m).exp().flatten(3, 4)), (ends, m[..., -1, -1].clone())


def stabilisers(level: Tensor, enter: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """m at each slot [G, S, H, n, c], and before each chunk [G, S, H, n]: eq. 15.

    level [G, S, H, n, c]: cumulative log f in each chunk; enter, the same shape: log i; start [G, H].
    """
    own = (level + (enter - level).cummax(-1).values).clamp(min=0.0)
    before, segment_chunks, n = [start], *level.shape[1:4:2]
    ends = (x[..., -1].transpose(2, 3).flatten(1, 2).unbind(1) for x in (level, own))
    for fall, top in zip(*ends, strict=True):
        before.append(torch.maximum(before[-1] + fall, top))
    first = torch.stack(before[:-1], 1).unflatten(1, (segment_chunks, n)).transpose(2, 3)
    return torch.maximum(level + first.unsqueeze(-1), own), first


def factor(matrix: Tensor, m: Tensor) -> Tensor:
    """The matrix by which [q, 1] is multiplied, [[C e^-m, n e^-m, 0], [0, 0, e^-m]]: [..., H, K + 1, V + 2]."""
    keys, values = matrix.shape[-2:]
    corner = F.pad((-m).exp()[..., None, None], (values, 0, keys, 0))
    return F.pad(matrix, (0, 1, 0, 1)) + corner


def divided(z: Tensor) -> Tensor:
    """[q C, q n, e^-m] [..., V + 2] -> q C / max(|q n|, e^-m), eq. 21 with both scaled by e^-m.

    Divided in float32 or wider: in float16 the square of a small divisor is 0. The divisor is at least the square of the dtype's
    epsilon, because e^-m may underflow.
    """
    exact = upcast(z)
    size = torch.maximum(exact[..., -2:-1].abs(), exact[..., -1:]).clamp(min=torch.finfo(z.dtype).eps ** 2)
    return (exact[..., :-2] / size).to(z.dtype)


class MlstmRead(Reader):
    """[C, n] e^-m during a call, and e^-m at each slot, floor [G, S, H, L]; queries end with a 1."""

    def __init__(self, reader: WeightedRead, floor: Tensor):
        self.reader, self.floor = reader, floor

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """See Reader."""
        floor = self.floor.index_select(3, last_seen(self.floor.shape[3], z.shape[3], group, z.device)).to(z.dtype)
        return torch.cat([self.reader.read(z[..., :-1], group), floor.unsqueeze(-1)], -1)
