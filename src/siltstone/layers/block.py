"""A pre-norm block: x <- x + mix(norm(x)), x <- x + mlp(norm(x))."""

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
from .context import StepContext
from .mixer import Mixer
from .windowed import Windowed

LAYERS: dict[str, Any] = {"window": Windowed, "attention": Attention}


class MLP(nn.Module):
    """swiglu: (silu(x W_g) * (x W_u)) W_d (arXiv 2002.05202); gelu: gelu(x W_u) W_d."""

    def __init__(self, cfg: LMConfig):
        super().__init__()
        width, hidden = cfg.layer.d_model, cfg.hidden
        self.up = nn.Linear(width, hidden, bias=False)
        self.gate = nn.Linear(width, hidden, bias=False) if cfg.mlp == "swiglu" else None
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        up = self.up(x)
        return self.down(F.gelu(up) if self.gate is None else F.silu(self.gate(x)) * up)


class Block(nn.Module):
    """One layer of the model."""

    def __init__(self, cfg: LMConfig, kind: str, layer: LayerConfig, shares_routing: bool):
        super().__init__()
        self.norm_mix = RMSNorm(cfg.layer.d_model, cfg.norm_eps)
        self.mix = Mixer(layer, shares_routing) if kind == "memory" else LAYERS[kind](layer)
        self.norm_mlp = RMSNorm(cfg.layer.d_model, cfg.norm_eps)
        self.mlp = MLP(cfg)

    def step(self, x: Tensor, state: Any, context: StepContext, empty: Tensor | None) -> tuple[Tensor, Any]:
        """One token of each row, x [B, 1, D]."""
        mixed, state = self.mix.step(self.norm_mix(x), state, context, empty)
        x = x + mixed
        return x + self.mlp(self.norm_mlp(x)), state

    @eagerly
    def forward(self, x: Tensor, state: Any, context: Context) -> tuple[Tensor, Any]:
        """One call over runs."""
        mixed, state = self.mix(self.norm_mix(x), state, context)
        x = x + mixed
        return x + self.mlp(self.norm_mlp(x)), state
