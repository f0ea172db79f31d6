"""The state of a memory layer, and what the functions that write and read it need of the layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from ..bank.bounded import Bounded
from ..bank.constant import Bank
from ..bank.logarithmic import Slots
from ..cache.base import CachePolicy, Router
from ..cache.exact import Kept
from ..compress.base import Compress
from ..config.layer import LayerConfig
from ..memory.base import Memory
from ..schedule.plan import Geometry
from ..state.tree import State
from .window import WindowAttention, WindowState

AnyBank = Bank | Slots | Bounded


@dataclass
class LayerState(State):
    """window: rings; input [B, delay + rate - 1, D]: tokens still to be written; online: the memory; bank: sealed states;
    summary [B, J, U]: sums of the online segment's routing keys, a sub-block each; conv [B, width - 1, D]: what a short
    convolution still reaches; kept: writes that the window still sees."""

    narrow: ClassVar[tuple[str, ...]] = ("input", "conv")

    window: WindowState | None
    input: Tensor
    online: State
    bank: AnyBank | None
    summary: Tensor | None
    conv: Tensor | None = None
    kept: Kept | None = None


class Parts(Protocol):
    """A memory layer as its reads and writes see it."""

    cfg: LayerConfig
    geo: Geometry
    memory: Memory
    compress: Compress
    cache: CachePolicy
    router: Router | None
    window: WindowAttention | None
