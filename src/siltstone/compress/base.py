"""What a compressor is."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from ..config import LayerConfig


class Compress(nn.Module):
    """`rate` tokens become one: x [R, M, rate, D] -> [R, M, D]. Subclasses define `name` and `forward`."""

    name: ClassVar[str]

    def __init__(self, cfg: LayerConfig):
        super().__init__()
        self.rate = cfg.rate

    @classmethod
    def check(cls, cfg: LayerConfig) -> None:
        """Raise ConfigError where this compressor cannot work with the layer's other keys."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """[R, M, rate, D] -> [R, M, D]."""
