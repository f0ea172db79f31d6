"""Chunk-parallel matrix memories whose writes have weights besides their decay: shared by swla and mlstm.

Inside a chunk the weight of every write at every slot is a matrix, [c, e]; see `chunked.py` for the rest.
"""

from __future__ import annotations

from torch import Tensor

from .chunked import Reader, fold, last_seen
from .upcast import upcast


class WeightedRead(Reader):
    """o_i = fade_i q_i S_in + sum_j weight_ij (q_i k_j) v_j.

    keys [G, S, H, n, e, K], values [G, S, H, n, e, V], weight [G, S, H, n, c, e] (0 where j is later than i),
    fade [G, S, H, n, c], before [G, S, H, n, K, V]: the matrix at each chunk's start.
    """

    def __init__(self, keys: Tensor, values: Tensor, weight: Tensor, fade: Tensor, before: Tensor):
        self.parts = keys, values, weight, fade.unsqueeze(-1), before

    def read(self, z: Tensor, group: int = 1) -> Tensor:
        """z [G, S, H, L*rate, K] -> [G, S, H, L*rate, V]."""
        keys, values, weight, fade, before = (x.to(z.dtype) for x in self.parts)
        n, c = weight.shape[3:5]
        z = z.unflatten(3, (n, -1))
        if z.shape[4] > c or group > 1:
            seen = last_seen(c, z.shape[4], group, z.device)
            weight, fade = (x.index_select(4, seen) for x in (weight, fade))
        return ((z @ keys.transpose(-1, -2) * weight) @ values + fade * (z @ before)).flatten(3, 4)


def weighted(keys: Tensor, values: Tensor, weight: Tensor, fade: Tensor, start: Tensor) -> tuple[WeightedRead, Tensor]:
    """A reader of the matrices, from start [G, H, K, V]; and the matrices after each segment chunk, [G, S, H, K, V]."""
    late = (keys * weight[..., -1, :].unsqueeze(-1).to(keys.dtype)).transpose(-1, -2)
    before, ends = fold(upcast(late @ values), fade[..., -1, None, None], start)
    return WeightedRead(keys, values, weight, fade, before), ends
