"""Calls of modules that accumulate in float32 or wider; they also work when the module is replaced.

A module is always called; its weights are never used directly. So a wrapper, a hook, a parametrisation or a quantised
replacement takes effect. A mode, active during the call, selects the operations that must be wider than the model's dtype.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HALF = (torch.bfloat16, torch.float16)


def upcast(x: Tensor) -> Tensor:
    """x in float32 or wider: the dtype in which states accumulate."""
    return x.float() if x.dtype in HALF else x


def upcasting(x: Tensor) -> AbstractContextManager[Any]:
    """For the call of a module with x: biases of linear maps are added, and recurrences run, in float32 or wider.

    Products stay in the dtype of the weights, or of autocast.
    """
    return _Widely() if x.dtype in HALF or autocast_on(x) else nullcontext()


def autocast_on(x: Tensor) -> bool:
    """Whether autocast is active on the tensor's device (always False on the device meta)."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def exactly(x: Tensor) -> AbstractContextManager[Any]:
    """Without autocast on the tensor's device."""
    return torch.autocast(x.device.type, enabled=False) if autocast_on(x) else nullcontext()


class _Widely(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return _linear(*args, **kwargs)
        if func is torch.gru or func is torch.lstm:
            with exactly(args[0]):
                return func(*map(_all_wide, args), **kwargs)
        return func(*args, **kwargs)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = F.linear(x.to(weight.dtype) if weight.dtype in HALF else x, weight)
    return product if bias is None else upcast(product) + upcast(bias)


def _all_wide(x: Any) -> Any:
    if isinstance(x, Tensor):
        return upcast(x)
    return type(x)(map(_all_wide, x)) if isinstance(x, list | tuple) else x


class Placed(nn.Module):
    """A module that reads its device and dtype from an empty tensor, `like`; this also works when its parts are replaced."""

    _like: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_like", torch.empty(0), persistent=False)

    @property
    def like(self) -> Tensor:
        """Template for state tensors (dtype, device); a parameter if `functional_call` fills a skeleton on the device meta."""
        return next(self.parameters(), self._like) if self._like.is_meta else self._like

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *args: Any) -> None:
        """As for any module; also takes device and dtype from parameters that replace the module's (assign=True)."""
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)
        given = next((x for name, x in state_dict.items() if name.startswith(prefix) and x.is_floating_point()), None)
        if local_metadata.get("assign_to_params_buffers") and given is not None:
            self._like = given.new_empty(0)
