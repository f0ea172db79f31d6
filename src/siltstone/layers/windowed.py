"""A layer of window attention alone: the baseline for a memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops.eager import eagerly
from ..schedule.call import Geometry
from ..schedule.context import Context
from .context import StepContext
from .linear import linear
from .short_conv import ShortConv
from .state import MixState
from .window import WindowAttention, WindowState


@dataclass
class WindowedState(MixState):
    """window: the rings; conv [B, width - 1, D]: the inputs that a short convolution still needs."""

    narrow: ClassVar[tuple[str, ...]] = ("conv",)

    window: WindowState
    conv: Tensor | None = None


class Windowed(nn.Module):
    """y = W_o window(x). x [R, T, D] -> y [R, T, D]."""

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.geo = Geometry(window=cfg.window, sinks=cfg.sinks, delay=cfg.window, rate=1)
        self.conv = ShortConv(cfg)
        self.window = WindowAttention(cfg, self.geo)
        self.out = linear(cfg.heads * cfg.val_dim, cfg.d_model, cfg.out_bias)

    def init(self, batch: int) -> WindowedState:
        """Empty rings."""
        return WindowedState(self.window.init(batch), self.conv.init(batch))

    def step(self, x: Tensor, state: WindowedState, context: StepContext, empty: Tensor | None) -> tuple[Tensor, WindowedState]:
        """One token of each row, x [B, 1, D]."""
        x, conv = self.conv.step(x, state.conv, context)
        out, window = self.window.step(x, state.window, context)
        return self.out(out.flatten(2)), WindowedState(window, conv)

    @eagerly
    def forward(
        self, x: Tensor, state: WindowedState, context: Context | StepContext, empty: Tensor | None = None
    ) -> tuple[Tensor, WindowedState]:
        """One call over runs; with a StepContext, `step`."""
        if isinstance(context, StepContext):
            return self.step(x, state, context, empty)
        x, conv = self.conv(x, state.conv, context.packed)
        out, window = self.window(x, state.window, context)
        return self.out(out.flatten(2)), WindowedState(window, conv)
