"""Parameters that a call may leave out, such as those of a memory that nothing has been written to yet: their gradient is 0."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def taking_part(x: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """x itself; in a backward pass through it every parameter has a gradient, of zeros where nothing else gives one.

    So a step of training changes every parameter's moments, and what gathers gradients from several processes finds all.
    """
    return TakingPart.apply(x, *parameters) if torch.is_grad_enabled() else x


class TakingPart(torch.autograd.Function):
    """x, and nothing of the others."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[override]
        """x."""
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keeps what zeros are made of."""
        ctx.made = [(p.shape, p.dtype, p.device) for p in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        """The gradient of x, and zeros."""
        needed = zip(ctx.made, ctx.needs_input_grad[1:], strict=True)
        return grad, *(torch.zeros(shape, dtype=kind, device=device) if need else None for (shape, kind, device), need in needed)

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, *_: Any) -> Tensor | None:  # type: ignore[override]
        """As x."""
        return None if x is None else x.view_as(x)
