"""Linear attention: S_t = S_{t-1} + f(k_t)^T v_t, o = f(q) S. Source: arXiv 2006.16236, eqs. 18 to 20; keys are f(k) here."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from .chunked import ChunkRead, additive, chunks, length, masked, outer
from .norm import l2
from .upcast import upcast

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": l2,
    "elu": lambda z: F.elu(z) + 1,  # eq. 7
    "softmax": lambda z: z.softmax(-1),
}


def step(matrix: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One write into S [..., H, K, V]: key [..., H, K], value [..., H, V]."""
    return matrix + outer(key, value)  # eq. 18; if v has a column of ones, eq. 19 too


def chunk(matrix: Tensor, key: Tensor, value: Tensor, *, valid: Tensor | None = None, size: int = 64) -> tuple[ChunkRead, Tensor]:
    """`step` for key [G, S, L, H, K], value [G, S, L, H, V]: see `chunked.additive`."""
    c = length(key.shape[2], size)
    return additive(chunks(masked(key, valid), c), chunks(value, c), None, matrix)


def normalised(z: Tensor) -> Tensor:
    """[f(q) S, f(q) z] [..., V + 1] -> f(q) S / (f(q) z + 1e-6), eq. 20.

    Divided in float32 or wider: in float16 the square of a small divisor is 0.
    """
    exact = upcast(z)
    return (exact[..., :-1] / (exact[..., -1:] + 1e-6)).to(z.dtype)
