"""Linear layers for decoding: the same function of the same weights, computed as suits one token.

`twin(model, replace)` is the model with its linear layers replaced; everything else is shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class RowLinear(nn.Module):
    """x W^T + b for x [1, 1, D], as a sum over products: a compiler makes one loop of it, which reads W at memory bandwidth."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[1, 1, D] -> [1, 1, out]."""
        out = (self.weight * x.unsqueeze(-2)).sum(-1)
        return out if self.bias is None else out + self.bias


class Int8Linear(nn.Module):
    """x (s Q)^T + b with Q int8 [out, D] and a scale s for each row: |w - s q| <= s / 2, s = max|w| / 127.

    one_row: as in `RowLinear`.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, one_row: bool = False):
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.bias, self.one_row = bias, one_row

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8Linear:
        """The rounded weights of a linear layer."""
        weight = linear.weight.detach()
        scale = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        codes = (weight.float() / scale[:, None]).round().to(torch.int8)
        return cls(codes, scale.to(weight.dtype), None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., out]."""
        if self.one_row:
            out = (self.codes.to(x.dtype) * x.unsqueeze(-2)).sum(-1) * self.scale.to(x.dtype)
        else:
            out = nn.functional.linear(x, self.codes.to(x.dtype)) * self.scale.to(x.dtype)
        return out if self.bias is None else out + self.bias


def twin(module: M, replace: Callable[[nn.Module], nn.Module | None]) -> M:
    """A module with the same parameters and buffers, in which `replace` has replaced modules (None: it stays)."""
    made = replace(module)
    if made is not None:
        return cast(M, made)
    same = object.__new__(type(module))  # parametrised modules refuse to be copied
    vars(same).update(vars(module))
    same._modules = {name: None if child is None else twin(child, replace) for name, child in module._modules.items()}
    return same


def one_row(module: nn.Module) -> nn.Module | None:
    """For `twin`: linear layers in the form for one row."""
    if isinstance(module, Int8Linear):
        return Int8Linear(module.codes, module.scale, module.bias, one_row=True)
    return RowLinear(module) if isinstance(module, nn.Linear) and _plain(module) else None


def rounded(module: nn.Module) -> nn.Module | None:
    """For `twin`: linear layers in 8 bits."""
    return Int8Linear.of(module) if isinstance(module, nn.Linear) and _plain(module) else None


def _plain(module: nn.Linear) -> bool:
    """Whether the module computes x W^T + b and nothing else: it has no hooks, and no other `forward` than that of nn.Linear."""
    own = type(module) is not nn.Linear or "forward" in vars(module)
    return not (own or module._forward_hooks or module._forward_pre_hooks)
