"""No compression: c = x, every token is one write.

Source: by definition. State: none.
Cost: nothing.

For: writing every token unchanged; the default.
Can: pass all information on to the memory.
Cannot: reduce the number of writes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..config.layer import LayerConfig
from ..errors import ConfigError
from .base import Compress


class Identity(Compress):
    """c = x, rate 1."""

    name: ClassVar[str] = "identity"

    @classmethod
    def check(cls, cfg: LayerConfig, options: Any) -> None:
        """Requires `rate=1`."""
        if cfg.rate != 1:
            raise ConfigError(
                f"compress='identity' writes every token, so rate={cfg.rate} must be 1; set rate=1, or "
                "another compressor, for example compress='mean'"
            )

    def forward(self, x: Tensor, recent: Tensor | None = None) -> Tensor:
        """[R, M, 1, D] -> [R, M, D]."""
        return x.squeeze(2)
