"""torch.func and forward-mode derivatives: whether they are active, and which tensors have a vmap axis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_func: Any = getattr(torch._C, "_functorch")  # noqa: B009  torch declares no types for it


def at_work() -> bool:
    """Whether the call is inside grad, vmap or another transform of torch.func, or forward-mode derivatives (`forward_ad`):
    then no in-place updates and no fused kernels are allowed."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def plain_recurrences() -> AbstractContextManager[Any]:
    """For calls of torch's recurrent networks: disables oneDNN's kernels, which have no forward-mode derivatives, if needed."""
    return _without_onednn() if at_work() else nullcontext()


@contextmanager
def _without_onednn() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def batched(*tensors: Tensor) -> bool:
    """Whether any of the tensors has a vmap axis, so that its values cannot be read."""
    if not at_work():
        return False
    for x in tensors:
        while _func.is_functorch_wrapped_tensor(x):
            if _func.is_batchedtensor(x):
                return True
            x = _func.get_unwrapped(x)
    return False


def unreadable(*tensors: Tensor) -> bool:
    """Whether values cannot be read: some tensors are `batched`, or on the device meta."""
    return any(x.is_meta for x in tensors) or batched(*tensors)


def without(x: Tensor) -> Tensor:
    """The tensor inside the wrappers of transforms other than vmap."""
    while _func.is_functorch_wrapped_tensor(x):
        x = _func.get_unwrapped(x)
    return x
