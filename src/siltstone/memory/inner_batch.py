"""Rules that write in inner batches: all writes of a batch see the state at its start. A read passes two matrices."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ..config.layer import LayerConfig
from ..ops.norm import l2
from .base import Inputs, Memory


class InnerBatchMemory(Memory):
    """Unit queries, keys and values; `options.inner_batch` writes form a batch, counted from the cut."""

    factors_count: ClassVar[int] = 2
    read_is_linear = False

    def __init__(self, cfg: LayerConfig, options: Any):
        super().__init__(cfg, options)
        self.batch = options.inner_batch
        self.query = nn.Linear(cfg.d_model, self.heads * self.key_dim, bias=False)

    @classmethod
    def align(cls, options: Any) -> int:
        """Batches are counted from the cut."""
        return options.inner_batch

    def queries(self, x: Tensor) -> Tensor:
        """q = l2(x W_q)."""
        return l2(self.query(x).unflatten(-1, (self.heads, self.key_dim)))

    def predicted(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """See Memory.predicted."""
        return inputs["key"], inputs["value"]
