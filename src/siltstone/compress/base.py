"""The interface of compressors."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..config.registry import NoOptions


class Compress(nn.Module):
    """`rate` tokens become one: x [R, M, rate, D] -> [R, M, D]. Subclasses define `name` and `forward`.

    sees_window   `forward` also takes `recent` [R, M, D]: the mean of the window's tokens at the time of each write
    """

    name: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    sees_window: bool = False

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__()
        self.rate, self.options = cfg.rate, options

    @classmethod
    def check(cls, cfg: LayerConfig, options: Any) -> None:
        """Raise ConfigError if this compressor cannot work with the layer's other keys."""

    @abstractmethod
    def forward(self, x: Tensor, recent: Tensor | None = None) -> Tensor:
        """[R, M, rate, D] -> [R, M, D]."""
