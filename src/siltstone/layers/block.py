"""A block: x <- x + mix(norm(x)), x <- x + mlp(norm(x)); with norm="after" x <- x + norm(mix(x)), x <- x + norm(mlp(x))."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..config.model import LMConfig
from ..ops.eager import eagerly
from ..ops.norm import RMSNorm
from ..schedule.context import Context
from .attention import Attention
from .blocks import BlockAttention
from .context import StepContext
from .linear import linear
from .mixer import Mixer
from .windowed import Windowed

LAYERS: dict[str, Any] = {"window": Windowed, "attention": Attention}


def memory_layer(layer: LayerConfig, shares_routing: bool = False) -> Mixer | BlockAttention:
    """The mixing layer of a memory block: with cache="blocks" there is no memory, and the layer attends to blocks."""
    return BlockAttention(layer) if layer.members.cache.cls.exact else Mixer(layer, shares_routing)


class MLP(nn.Module):
    """swiglu: (silu(x W_g) * (x W_u)) W_d (arXiv 2002.05202); gelu: gelu(x W_u) W_d."""

    def __init__(self, cfg: LMConfig):
        super().__init__()
        width, hidden = cfg.layer.d_model, cfg.hidden
        self.up = linear(width, hidden, cfg.mlp_bias)
        self.gate = linear(width, hidden, cfg.mlp_bias) if cfg.mlp == "swiglu" else None
        self.down = linear(hidden, width, cfg.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        up = self.up(x)
        return self.down(F.gelu(up) if self.gate is None else F.silu(self.gate(x)) * up)


class Block(nn.Module):
    """One layer of the model."""

    def __init__(self, cfg: LMConfig, kind: str, layer: LayerConfig, shares_routing: bool):
        super().__init__()
        self.after = cfg.norm == "after"
        self.norm_mix = RMSNorm(cfg.layer.d_model, cfg.norm_eps)
        self.mix = memory_layer(layer, shares_routing) if kind == "memory" else LAYERS[kind](layer)
        self.norm_mlp = RMSNorm(cfg.layer.d_model, cfg.norm_eps)
        self.mlp = MLP(cfg)

    def _joined(self, x: Tensor, mixed: Tensor) -> Tensor:
        """x and what the mixing layer made of it -> the block's output."""
        if self.after:
            x = x + self.norm_mix(mixed)
            return x + self.norm_mlp(self.mlp(x))
        x = x + mixed
        return x + self.mlp(self.norm_mlp(x))

    def step(self, x: Tensor, state: Any, context: StepContext, empty: Tensor | None) -> tuple[Tensor, Any]:
        """One token of each row, x [B, 1, D]."""
        mixed, state = self.mix.step(x if self.after else self.norm_mix(x), state, context, empty)
        return self._joined(x, mixed), state

    @eagerly
    def forward(self, x: Tensor, state: Any, context: Context | StepContext, empty: Tensor | None = None) -> tuple[Tensor, Any]:
        """One call over runs; with a StepContext, `step`."""
        mixed, state = self.mix(x if self.after else self.norm_mix(x), state, context, empty)
        return self._joined(x, mixed), state
