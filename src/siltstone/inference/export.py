"""A model's step as two exported programs with explicit state: `step` and `seal`, for `torch.export`.

Both are functions of tensors alone: the state comes in and goes out as a list of tensors in the order of `names`. The host keeps
positions; it runs `seal` before a token with which some row begins a segment, as `models/step.py` does.

    logits, state = step(ids, position, active, counts, empty, state)      one token for each row
    state = seal(number, now, writes, state)                               rows `now` seal their segment

ids, position   int64 [B]
active, now     bool [B]
counts          for each timing int64 [3, B]: sealed segments with this token, the online segment's first write, the row's phase
empty           for each layer bool [B, N, J], or None: sub-blocks of checkpoints without a write
number          int64 [B] for each layer that seals: segments sealed before; with cache="blocks": the row's position
writes          for each such layer int64 [B, J], or None: writes of each sub-block of the segment that is sealed

With cache="blocks" rows also choose their blocks when they seal: `now` says in which rows a group begins or
the next token asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram, export

from ..bank.sealing import RowSealer, Sealed
from ..errors import InputError
from ..layers import blocks_step
from ..layers import step as layer_step
from ..layers.context import StepContext
from ..layers.state import MixState
from ..models.lm import LM
from ..models.step import prepare
from ..models.stream_state import LMState
from ..schedule.segments import Segments
from ..schedule.step import StepSchedule, Turn
from ..state.entries import Entries
from .program import UNKNOWN, Place, flatten, rebuilt


@dataclass(frozen=True)
class Exported:
    """`step`, `seal` (None: no layer seals), and the names of the state's tensors."""

    step: ExportedProgram
    seal: ExportedProgram | None
    names: list[str]


class Step(nn.Module):
    """The model's step as a function of tensors."""

    def __init__(self, model: LM, trees: list[MixState]):
        super().__init__()
        self.model, self._trees = model, trees
        found = {block.mix.geo.timing: block.mix.geo for block in _blocks(model) if hasattr(block.mix, "geo")}
        self._geometries = list(found.items())

    def forward(
        self, ids: Tensor, position: Tensor, active: Tensor, counts: list[Tensor], empty: list[Any], state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """See the module."""
        pairs = zip(self._geometries, counts, strict=True)
        turns = {timing: Turn(geo, position, active, count, UNKNOWN) for (timing, geo), count in pairs}
        context, each = StepContext(position, active, turns, self.model.like.dtype, inplace=False), iter(state)
        x, after = self.model.embed(ids).unsqueeze(1), []
        for block, tree, none in zip(_blocks(self.model), self._trees, empty, strict=True):
            x, layer = block.step(x, rebuilt(tree, each, whole=True), context, none)
            after.append(layer)
        return self.model.head(self.model.norm(x))[:, 0], flatten(after, whole=True)


class Seal(nn.Module):
    """The seals of all layers that keep checkpoints."""

    def __init__(self, model: LM, trees: list[Any], keeps: list[bool]):
        super().__init__()
        self.model, self._trees, self._keeps = model, trees, keeps

    def forward(self, number: list[Any], now: list[Any], writes: list[Any], state: list[Tensor]) -> list[Tensor]:
        """See the module."""
        each, after, layers = iter(state), [], zip(_blocks(self.model), self._trees, self._keeps, strict=True)
        for (block, tree, keeps), *given in zip(layers, number, now, writes, strict=True):
            layer: Any = rebuilt(tree, each, whole=True)
            if keeps and hasattr(block.mix, "renew"):
                layer = blocks_step.renewed_where(block.mix, layer, *given[:2])
            elif keeps:
                mixer, (count, here, wrote) = block.mix, given
                first = next(x for _, x in layer.online.leaves())
                nothing = Segments(1, np.zeros(len(count), np.int64), (), 0, 1, ())
                by = RowSealer(mixer.memory, mixer.router, mixer.budget, nothing, first.dtype, first.device)
                layer = layer_step.sealed(mixer, layer, by, Sealed(count, here, layer.online, layer.summary, wrote, None))
            after.append(layer)
        return flatten(after, whole=True)


def exported(model: LM, state: LMState) -> Exported:
    """The programs for the rows and the room of a state. Room is taken as for compiled steps: 64 checkpoints, or a multiple."""
    with torch.no_grad():
        call, ids = Call(model, state), torch.zeros(len(state), dtype=torch.long, device=model.like.device)
        model.step(ids, state)  # fills tables of constants, which a tracer cannot make
        step = export(Step(model, call.trees), call.step(ids), strict=False)
        seal = None
        if any(call.keeps):
            seal = export(Seal(model, call.trees, call.keeps), call.seal(np.ones(len(state), bool)), strict=False)
    return Exported(step, seal, call.names)


class Call:
    """The arguments of both programs for one token of each row of a state."""

    def __init__(self, model: LM, state: LMState):
        self.model, self.state = model, state
        self.mixers = [block.mix for block in _blocks(model)]
        layers = zip(state.layers, self.mixers, strict=True)
        self.layers = [_roomy(layer.flat().roomy(mixer)) for layer, mixer in layers]
        self.keeps = [x.checkpoints() is not None or hasattr(m, "renew") for x, m in zip(self.layers, self.mixers, strict=True)]
        each: Any = zip(self.mixers, self.layers, strict=True)
        for mixer, layer in each:
            if hasattr(mixer, "renew") and (mixer.law.budget is not None or mixer.law.two_stages(np.int64(layer.means.room))):
                raise InputError(
                    "blocks over a budget, and those that are chosen in two stages, cannot be exported: their choice is made on "
                    "the host; leave max_checkpoints and max_bytes out, and set cache_options coarse=0, or a larger coarse_from"
                )
            if hasattr(mixer, "renew") and (mixer.law.exact or mixer.law.votes) and state.positions.from_here().any():
                raise InputError(
                    "the choice of rows that ask by keys, or with votes, cannot be exported; set asking to False, or set "
                    "cache_options exact=0 and votes=0"
                )
        self.trees = [layer.map(Place) for layer in self.layers]
        self.names = [name for i, layer in enumerate(self.layers) for name in _names(i, layer)]

    def step(self, ids: Tensor, active: np.ndarray | None = None) -> tuple[Any, ...]:
        """The arguments of `step`; of a state whose rows have sealed what they must."""
        there = np.ones(len(self.state), bool) if active is None else active
        ready = prepare(self.mixers, self.state, (there, None, None), self.model.like.device, inplace=False)
        counts = [counts for _, counts, _ in ready.schedules.values()]
        empty = []
        for none, layer in zip(ready.empty, self.layers, strict=True):
            pad = None if none is None else torch.nn.functional.pad(none, (0, 0, 0, layer.room - none.shape[1]))
            empty.append(pad)
        return ids, ready.position, torch.from_numpy(there.copy()), counts, empty, flatten(self.layers, whole=True)

    def seal(self, now: np.ndarray | None = None) -> tuple[Any, ...]:
        """The arguments of `seal`; now: rows that seal (None: those that do with their next token)."""
        layers = zip(self.mixers, self.layers, self.keeps, strict=True)
        each = [self._sealed(mixer, layer, now) if keeps else (None, None, None) for mixer, layer, keeps in layers]
        number, here, writes = (list(x) for x in zip(*each, strict=True))
        return number, here, writes, flatten(self.layers, whole=True)

    def _sealed(self, mixer: Any, layer: Any, now: np.ndarray | None) -> tuple[Tensor | None, ...]:
        if hasattr(mixer, "renew"):
            position = self.state.position
            begins = mixer.law.chooses(self.state.positions) if now is None else now
            return torch.from_numpy(position.copy()), torch.from_numpy(begins.copy()), None
        by = StepSchedule(mixer.geo, self.state.positions, np.ones(len(self.state), bool))
        sealer = RowSealer(mixer.memory, mixer.router, mixer.budget, by.segments, torch.float32, self.model.like.device)
        known = Sealed.known(sealer, by.sealed, by.seals if now is None else now, layer.online, layer.summary)
        return known.number, known.now, known.writes


def _roomy(layer: MixState) -> MixState:
    """With room for one more entry in every store, those that steps do not read included."""
    return layer.map(lambda x: x.roomy() if isinstance(x, Entries) else x)


def _blocks(model: LM) -> list[Any]:
    return list(model.blocks)


def _names(i: int, layer: MixState) -> list[str]:
    found = []
    for name, leaf in layer.leaves():
        parts = [f".{j}" for j in range(len(leaf.axes))] if isinstance(leaf, Entries) else [""]
        found += [f"layers.{i}.{name}{part}" for part in parts]
    return found
