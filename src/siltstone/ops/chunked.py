"""Chunk-parallel matrix memories: shared by rules whose state is a matrix S [H, K, V].

Inside a chunk of c writes every query sees the chunk's earlier writes through a masked c x c product, and all writes before the
chunk through the state at the chunk's start. Decays are in log space. Source of the formulation:
arXiv 2312.06635 (chunkwise gated linear attention), arXiv 2412.06464 (gated delta rule).

Tensors of a `chunk` call are [G, S, L, H, ...], like inputs of Memory.scan; those of its scan chunks are [G, S, H, n, c, ...],
n chunks of c slots. Tensors of a `step` are [..., H, ...], with any axes before the heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .transforms import at_work
from .upcast import autocast_on, upcast

Opt = Tensor | None  # an optional tensor


class Reader:
    """Reads one read factor during a call, with its matrix as it is after each write."""

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, in] -> [G, S, H, L*rate, out].

        `rate` queries follow each write slot; with `group` writes made together, all queries of the group see all of them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read(z, group)")

    def propagate(self, group: slice, apart: Tensor) -> Tensor | None:
        """The result of applying the writes of some groups (one segment chunk each) to a difference of states [.., X, H, K, V].

        For rules that are affine in a matrix state: T(S) - T(S'), given S - S'. None: not supported by this rule.
        """
        return None


def last_seen(slots: int, queries: int, group: int, device: torch.device) -> Tensor:
    """[queries] the last write slot that each query sees."""
    slot = torch.arange(queries, device=device) * slots // queries
    return (slot // group + 1) * group - 1


def length(slots: int, most: int) -> int:
    """Slots per chunk, when `slots` are split into chunks of equal length, at most `most`."""
    return slots // -(-slots // most)


def masked(x: Tensor, valid: Opt) -> Tensor:
    """x [G, S, L, H, ...] with zeros at invalid slots, valid bool [G, S, L]; None: all are valid."""
    return x if valid is None else x * valid.view(*valid.shape, *(1,) * (x.dim() - valid.dim()))


def chunks(x: Tensor, size: int) -> Tensor:
    """[G, S, L, H, ...] -> [G, S, H, L/size, size, ...], contiguous, so that the following products need no copy."""
    return x.unflatten(2, (-1, size)).movedim(4, 2).contiguous()


def decays(level: Tensor, diagonal: int, more: Tensor | None = None) -> Tensor:
    """Cumulative logs [.., c] -> exp(level_i - level_j + more_ij) if j < i + diagonal, else 0: [.., c, c]; more None: 0."""
    late = torch.ones(level.shape[-1], level.shape[-1], dtype=torch.bool, device=level.device).triu(diagonal)
    logs = level.unsqueeze(-1) - level.unsqueeze(-2)
    return (logs if more is None else logs + more).masked_fill(late, float("-inf")).exp()


def outer(key: Tensor, value: Tensor) -> Tensor:
    """k^T v: [..., K], [..., V] -> [..., K, V], float32 or wider."""
    return upcast(key).unsqueeze(-1) * upcast(value).unsqueeze(-2)


def plus(x: Tensor, a: Tensor, b: Tensor, factor: int = 1) -> Tensor:
    """x + factor a b, [G, n, m], [G, n, k], [G, k, m]; under autocast only the product is narrow."""
    if autocast_on(x):
        return x + factor * (a @ b)
    return torch.baddbmm(x, a, b, alpha=factor)


class ChunkRead(Reader):
    """Reads of one matrix per head that grows by `keys^T values` and decays:

        o_i = q_i S_in e^{l_i} + sum_{j<=i} e^{l_i-l_j} (q_i k_j) v_j

    keys [G, S, H, n, c, K], values [G, S, H, n, c, V], decay [G, S, H, n, c] (cumulative in the chunk, log space; None: none),
    before [G, S, H, n, K, V]: the matrix at each chunk's start. With a decay per channel, [G, S, H, n, c, K], the factor
    is inside the product: sum_k q_ik e^{l_ik - l_jk} k_jk, relative to the chunk's middle so that neither factor overflows.
    """

    def __init__(self, keys: Tensor, values: Tensor, decay: Tensor | None, before: Tensor):
        self.keys, self.values, self.decay, self.before = keys, values, decay, before

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, K] -> [G, S, H, L*rate, V]."""
        n, c = self.keys.shape[3:5]
        z = z.unflatten(3, (n, -1)).contiguous()
        each = z.shape[4] == c and group == 1  # one query per write, right after it
        seen = None if each else last_seen(c, z.shape[4], group, z.device)
        far, keys = z, self.keys.to(z.dtype)
        if self.decay is not None and self.decay.dim() == keys.dim():
            at = self.decay if seen is None else self.decay.index_select(-2, seen)
            middle = self.decay[..., c // 2 : c // 2 + 1, :].detach()  # it cancels out
            kind = torch.float32 if z.dtype == torch.float16 else z.dtype  # a dtype whose range holds such powers
            near, keys = z * (at - middle).exp().to(kind), keys * (middle - self.decay).exp().to(kind)
            scores, far = (near @ keys.transpose(-1, -2)).to(z.dtype), z * at.exp().to(z.dtype)
        else:
            scores = z @ keys.transpose(-1, -2)
        if self.decay is not None and self.decay.dim() < keys.dim():
            at = self.decay if seen is None else self.decay.index_select(-1, seen)
            decay = _exp((at.unsqueeze(-1) - self.decay.unsqueeze(-2)).clamp(max=0.0))
            scores = scores * decay.to(z.dtype)
            far = z * at.exp().unsqueeze(-1).to(z.dtype)
        if seen is None:
            scores = scores.tril() if torch.is_grad_enabled() or at_work() else scores.tril_()
        else:
            scores = scores.masked_fill(torch.arange(c, device=z.device) > seen.unsqueeze(-1), 0.0)
        far = far @ self.before.to(z.dtype)
        return (scores @ self.values.to(z.dtype) + far).flatten(3, 4)

    def propagate(self, group: slice, apart: Tensor) -> Tensor | None:
        """See Reader: the difference, decayed."""
        if self.decay is None:
            return apart
        total = self.decay[group, 0, :, :, -1].sum(2)
        return (total.exp()[:, None, :, None, None] if total.dim() == 2 else total.exp()[:, None, ..., None]) * apart


def _exp(x: Tensor) -> Tensor:
    return x.exp() if torch.is_grad_enabled() or at_work() else x.exp_()


def additive(keys: Tensor, values: Tensor, decay: Tensor | None, start: Tensor) -> tuple[ChunkRead, Tensor]:
    """S <- e^{decay} S + k^T v, chunk by chunk: keys, values, decay as in ChunkRead, start [G, H, K, V].

    Returns a reader of S, and S after each segment chunk [G, S, H, K, V].
    """
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
    before, ends = fold(upcast(grow), keep, start)
    return ChunkRead(keys, values, decay, before), ends


def fold(grow: Tensor, keep: Tensor | None, start: Tensor) -> tuple[Tensor, Tensor]:
    """S <- keep S + grow, chunk by chunk.

    grow [G, S, H, n, K, V], keep the same or 1 wide (None: 1), start [G, H, K, V] -> S before each chunk [G, S, H, n, K, V], and
    after each segment chunk [G, S, H, K, V].
    """
    segment_chunks, n = grow.shape[1], grow.shape[3]
    state = start
    steps = grow.transpose(2, 3).flatten(1, 2).unbind(1)
    decays = None if keep is None else keep.transpose(2, 3).flatten(1, 2).unbind(1)
    before, ends = [], []
    for i, step in enumerate(steps):
        before.append(state)
        state = state + step if decays is None else torch.addcmul(step, decays[i], state)
        if i % n == n - 1:
            ends.append(state)
    return torch.stack(before, 2).unflatten(2, (segment_chunks, n)).transpose(1, 2), torch.stack(ends, 1)
