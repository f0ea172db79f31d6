"""Which blocks of the text the tokens of a session attended to, in models with cache="blocks"."""

from __future__ import annotations

from typing import Any

from ..layers.blocks import BlockAttention
from ..layers.blocks_weight import Spans, weights
from ..models.lm import LM
from ..models.stream_state import LMState


class Watch:
    """Sums of the weights of blocks over tokens, heads and layers."""

    def __init__(self) -> None:
        self.spans: Spans = {}

    def add(self, model: Any, state: Any, tokens: int) -> None:
        """Add the last tokens of a call: as many of them as the state has the queries of."""
        if not isinstance(model, LM) or not isinstance(state, LMState):
            return
        layers: Any = zip(model.blocks, state.layers, strict=True)
        for block, held in layers:
            mixer: Any = block.mix
            if isinstance(mixer, BlockAttention):
                for span, weight in weights(mixer, held, state.positions, tokens).items():
                    self.spans[span] = self.spans.get(span, 0.0) + weight

    def found(self) -> list[tuple[int, int, float]]:
        """[(first, end, weight)], the largest weight first; of equal ones the first span."""
        return [(*span, weight) for span, weight in sorted(self.spans.items(), key=lambda item: (-item[1], item[0]))]


ASKED = 256  # tokens at the end of a prompt that choose blocks before every token, as the text that is written after them does


def attends(model: Any) -> bool:
    """Whether a layer of the model has blocks."""
    return isinstance(model, LM) and any(isinstance(block.mix, BlockAttention) for block in model.blocks)


def asks(state: Any) -> bool:
    """Whether the first row of a state chooses blocks before every token."""
    positions = getattr(state, "positions", None)
    return positions is not None and bool(positions.from_here()[0])
