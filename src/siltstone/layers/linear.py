"""Linear maps of layers: W x, or W x + b with b initially 0."""

from __future__ import annotations

from torch import nn


def linear(width: int, out: int, bias: bool) -> nn.Linear:
    """[..., width] -> [..., out]."""
    made = nn.Linear(width, out, bias=bias)
    if made.bias is not None:
        nn.init.zeros_(made.bias)
    return made
