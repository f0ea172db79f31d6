"""Zero gradients for parameters that a call may not use, such as those of a memory without writes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def taking_part(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """x itself; a backward pass through it gives every parameter a gradient, zeros if it has no other.

    With it, every training step updates the moments of every parameter, and data-parallel training finds all gradients.
    """
    return TakingPart.apply(x, *parameters) if torch.is_grad_enabled() else x


class TakingPart(torch.autograd.Function):
    """Returns x and ignores the parameters."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        """x."""
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keeps the shapes and dtypes of the zeros."""
        ctx.made = [(p.shape, p.dtype, p.device) for p in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """The gradient of x, and zeros."""
        needed = zip(ctx.made, ctx.needs_input_grad[1:], strict=True)
        return grad, *(torch.zeros(shape, dtype=kind, device=device) if need else None for (shape, kind, device), need in needed)

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, *_: Any) -> Tensor | None:  # type: ignore[override]
        """The tangent of x."""
        return None if x is None else x.view_as(x)
