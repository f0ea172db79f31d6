"""Linear biases for any length: logit_h -= m_h (t - p), with the slopes m_h = 2^(-8 (h + 1) / H) of heads h = 0 .. H-1.

Source: arXiv 2108.12409, section 3. The same sequence for every H (the paper interpolates if H is no power of two).
Biases depend only on differences of positions, computed in integers, so they are exact at any position.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def slopes(heads: int) -> np.ndarray:
    """float64 [H], the amount that each token of distance subtracts from a logit."""
    return 2.0 ** (-8 * np.arange(1, heads + 1) / heads)


def bias(distance: np.ndarray, heads: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """int64 [..., Q, N] -> `biases` [..., H, Q, N], and -inf if the distance is negative (the key is not visible)."""
    far = torch.from_numpy(distance).to(device)
    return biases(far, heads, dtype).masked_fill_((far < 0).unsqueeze(-3), float("-inf"))


def backwards(last: np.ndarray, queries: int, keys: int, heads: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[R, H, queries, keys]: the biases of queries at positions last [R], last - 1, ... towards keys at 0, 1, ...

    In this order a bias depends on the sum of both indices: the result is a view of [R, H, queries + keys - 1].
    """
    distance = last[:, None, None] - np.arange(queries + keys - 1)
    return bias(distance, heads, dtype, device).squeeze(2).unfold(-1, keys, 1)


_known: dict[tuple[int, torch.device], Tensor] = {}


def whole(heads: int, device: torch.device) -> Tensor:
    """`slopes` as a tensor, made once: a compiler then finds it among the globals."""
    if (heads, device) not in _known:
        with torch.inference_mode(False):
            _known[heads, device] = torch.from_numpy(slopes(heads)).to(device)
    return _known[heads, device]


def biases(distance: Tensor, heads: int, dtype: torch.dtype) -> Tensor:
    """int64 [..., Q, N] -> -slope * distance [..., H, Q, N]."""
    far = distance.to(torch.promote_types(dtype, torch.float32)).unsqueeze(-3)
    return (far * -whole(heads, distance.device).to(far.dtype)[:, None, None]).to(dtype)
