"""torch.func: whether its transforms are at work, and which tensors carry an axis of vmap's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_func: Any = getattr(torch._C, "_functorch")  # noqa: B009  torch declares no types for it


def at_work() -> bool:
    """Whether the call is inside grad, vmap or another transform of torch.func: nothing may be written in place then."""
    return torch._C._are_functorch_transforms_active()


def batched(*tensors: Tensor) -> bool:
    """Whether any of them differs from entry to entry of a vmap, so that no number can be read from it."""
    if not at_work():
        return False
    for x in tensors:
        while _func.is_functorch_wrapped_tensor(x):
            if _func.is_batchedtensor(x):
                return True
            x = _func.get_unwrapped(x)
    return False


def unreadable(*tensors: Tensor) -> bool:
    """Whether there are no numbers to decide by: some are `batched`, or on the device meta."""
    return any(x.is_meta for x in tensors) or batched(*tensors)


def without(x: Tensor) -> Tensor:
    """The tensor that transforms other than vmap have wrapped."""
    while _func.is_functorch_wrapped_tensor(x):
        x = _func.get_unwrapped(x)
    return x
