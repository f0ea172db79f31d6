"""The same tokens read in every way that must give the same logits.

    difference = max |logits - logits of one call| / max(1, max |logits of one call|)

Allowed are 1e-5 in float32 and 1e-10 in float64. (In float32 one step of rounding where checkpoints are rounded: a number that
falls between two codes may go to either in another split.) A state that was saved and restored goes on bit for bit in the
same calls. Where rounding decides between two checkpoints of a sparse cache, as their scores lie at the border of two steps,
another split may choose otherwise: only the tokens before the first such place are compared. In float64 there is hardly ever one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cache.sparse import in_steps
from ..inference import Session
from ..layers.mixer import Mixer
from ..models.lm import LM
from ..models.streaming import StreamingModel, StreamingState, logits
from ..text import Tokenizer
from .gates import Call, watched

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
ROUNDED = {"float32": 0.0, "bfloat16": 2.0**-8, "int8": 1 / 127}  # one step of rounding, of the largest value
TIE = {torch.float32: 1e-5, torch.float64: 1e-11}  # of scores, which are products of unit vectors


@dataclass(frozen=True)
class Check:
    """One way of reading against one call.

    way, dtype    "a token a call", "float32"
    difference    as above, nan where logits are not numbers; `tolerance` is what is allowed
    token         where it is largest
    tokens        how many were compared, of `of`
    same_bits     whether a restored state went on bit for bit; None where that is not asked
    cuts          segments that the text ended in the layer with the fewest; None where no layer seals any
    """

    way: str
    dtype: str
    difference: float
    tolerance: float
    token: int
    tokens: int
    of: int
    same_bits: bool | None = None
    cuts: int | None = None

    @property
    def ok(self) -> bool:
        """Whether it holds."""
        return self.difference <= self.tolerance and self.same_bits is not False


@dataclass(frozen=True)
class Reading:
    """What the ways read, ids [1, T], and what they have: a generator of their choices, a tokenizer for session files."""

    model: StreamingModel
    tokenizer: Tokenizer
    ids: Tensor
    random: np.random.Generator

    @property
    def half(self) -> int:
        """Where a stream is taken apart: about its middle."""
        return self.ids.shape[1] // 2 + 1


Way = Callable[[Reading], tuple[Tensor, bool | None]]


def feed(
    model: StreamingModel, ids: Tensor, state: StreamingState | None, cuts: Sequence[int], inplace: bool = False
) -> tuple[Tensor, StreamingState]:
    """Logits [B, T, V] of several calls, cut before the given columns, and the state after."""
    edges, outs = [0, *sorted(cuts), ids.shape[1]], []
    now = model.init_state(len(ids)) if state is None else state
    for a, b in zip(edges, edges[1:], strict=False):
        out, now = logits(model, ids[:, a:b], now, inplace=inplace)
        outs.append(out)
    return torch.cat(outs, 1), now


def _cuts(random: np.random.Generator, length: int) -> list[int]:
    """Random places, two tokens apart at least; one stands twice, so that a call has no token at all."""
    if length < 4:
        return []
    found = np.unique(2 * random.integers(1, length // 2, 3 + length // 64)).tolist()
    return [found[0], *found]


def chunks(r: Reading) -> tuple[Tensor, None]:
    """In calls of random lengths."""
    return feed(r.model, r.ids, None, _cuts(r.random, r.ids.shape[1]))[0], None


def steps(r: Reading) -> tuple[Tensor, None]:
    """A token a call, states updated in place, as a session does."""
    return feed(r.model, r.ids, None, range(1, r.ids.shape[1]), inplace=True)[0], None


def batch(r: Reading) -> tuple[Tensor, None]:
    """As one row among others that stand at other positions and read other text."""
    other, length = r.ids.flip(1), r.ids.shape[1]
    starts = [logits(r.model, other[:, :n])[1] for n in (min(5, length), length // 3)]
    state = starts[0].cat([starts[0], r.model.init_state(1), starts[1]])
    rows = torch.cat([other, r.ids, r.ids.roll(length // 2, 1)])
    return feed(r.model, rows, state, _cuts(r.random, length))[0][1:2], None


def padded(r: Reading, left: int = 0, right: int = 0, inside: float = 0.0) -> tuple[Tensor, None]:
    """In two calls, each with padding before, behind or (as a share of the tokens) between its tokens."""
    outs, state = [], None
    for part in r.ids.tensor_split([r.half], 1):
        number = part.shape[1]
        width = left + number + right + int(inside * number)
        at = np.sort(r.random.choice(width, number, replace=False)) if inside else left + np.arange(number)
        place = torch.from_numpy(at).to(part.device)
        ids, mask = part[:, :1].expand(1, width).clone(), torch.zeros(1, width, dtype=torch.bool, device=part.device)
        ids[0, place], mask[0, place] = part[0], True
        out, state = logits(r.model, ids, state, mask=mask)
        outs.append(out[:, place])
    return torch.cat(outs, 1), None


def packed(r: Reading) -> tuple[Tensor, None]:
    """Behind another document in the same row, which a reset ends."""
    before = r.ids.flip(1)[:, : r.half]
    ids = torch.cat([before, r.ids], 1)
    reset = torch.zeros_like(ids, dtype=torch.bool)
    reset[:, before.shape[1]] = True
    return logits(r.model, ids, reset=reset)[0][:, before.shape[1] :], None


def forked(r: Reading) -> tuple[Tensor, None]:
    """A fork goes on with the text while the original goes on, in place, with another one."""
    first, original = feed(r.model, r.ids[:, : r.half], None, _cuts(r.random, r.half))
    fork, other, outs = original.fork(), r.ids.flip(1), [first]
    for t in range(r.half, r.ids.shape[1]):
        _, original = logits(r.model, other[:, t : t + 1], original, inplace=True)
        out, fork = logits(r.model, r.ids[:, t : t + 1], fork, inplace=True)
        outs.append(out)
    return torch.cat(outs, 1), None


def through_file(r: Reading) -> tuple[Tensor, bool]:
    """Half of it in a session that goes through a file; the other half on both sides of the file."""
    session = Session(r.model, r.tokenizer)
    session.append(r.ids[0, : r.half])
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder:
        path = Path(folder) / "session.silt"
        session.save(path)
        back = Session.load(path, r.model, r.tokenizer)
    same = session.logits is not None and back.logits is not None and torch.equal(session.logits, back.logits)
    return _both(r, session._state, back._state, same and back.counters.recomputed == 0)


def through_tensors(r: Reading) -> tuple[Tensor, bool]:
    """Half of it, the state taken apart into tensors and numbers, and put together again for the other half."""
    _, state = feed(r.model, r.ids[:, : r.half], None, _cuts(r.random, r.half))
    tensors = {name: x.clone() for name, x in state.tensors().items()}
    return _both(r, state, r.model.load_state(tensors, json.loads(json.dumps(state.meta()))), True)


def _both(r: Reading, kept: StreamingState, back: StreamingState, same: bool) -> tuple[Tensor, bool]:
    """The second half from two states in the same calls: its logits behind those of one call over the first, bits compared."""
    rest = r.ids[:, r.half :]
    cuts = sorted({*range(min(8, rest.shape[1])), *_cuts(r.random, rest.shape[1])})
    (a, one), (b, two) = (feed(r.model, rest, s.fork(), cuts) for s in (kept, back))
    x, y = one.tensors(), two.tensors()
    same = same and torch.equal(a, b) and x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
    return torch.cat([logits(r.model, r.ids[:, : r.half])[0], b], 1), same and one.meta() == two.meta()


WAYS: dict[str, Way] = {
    "calls of random lengths": chunks,
    "a token a call": steps,
    "a row of a batch": batch,
    "padding on the left": lambda r: padded(r, left=7),
    "padding on the right": lambda r: padded(r, right=7),
    "padding between tokens": lambda r: padded(r, inside=0.3),
    "behind another document": packed,
    "after a fork": forked,
    "after a session file": through_file,
    "after state.tensors()": through_tensors,
}


@torch.no_grad()
def compare(model: StreamingModel, tokenizer: Tokenizer, ids: Tensor, seed: int) -> Iterator[Check]:
    """Every way against one call, in the model's own dtype. ids int64 [1, T], T >= 2."""
    dtype = model.like.dtype
    want, after = logits(model, ids)
    tokens, cuts = untied(model, ids), ended(model, after)
    tolerance = TOLERANCE[dtype]
    if dtype == torch.float32:
        layers = getattr(model.cfg, "layer_configs", ())
        tolerance = max([tolerance, *(ROUNDED[layer.checkpoint_dtype] for layer in layers)])
    for number, (way, read) in enumerate(WAYS.items()):
        found, same = read(Reading(model, tokenizer, ids, np.random.default_rng([seed, number])))
        apart = (found - want).abs().amax(-1)[0, :tokens].double()
        worst = int(apart.nan_to_num(torch.inf).argmax())
        difference = float(apart[worst] / max(1.0, float(want.abs().max())))
        yield Check(
            way=way, dtype=str(dtype).removeprefix("torch."), difference=difference, tolerance=tolerance, token=worst,
            tokens=tokens, of=ids.shape[1], same_bits=same, cuts=cuts,
        )  # fmt: skip


def ended(model: StreamingModel, state: Any) -> int | None:
    """Segments that a row has sealed in the layer with the fewest, of those that seal any; None where none does."""
    if not isinstance(model, LM):
        return None
    sealing = [block.mix.geo for block in model.blocks if isinstance(block.mix, Mixer) and block.mix.cache.keeps]
    return min((int(geo.sealed(state.positions)[0]) for geo in sealing), default=None)


def untied(model: StreamingModel, ids: Tensor) -> int:
    """How many tokens come before the first at which a sparse cache's choice hangs on rounding; all of them without one."""
    first, dtype = ids.shape[1], model.like.dtype
    if not isinstance(model, LM):
        return first

    def look(_: int, call: Call) -> None:
        nonlocal first
        if call.mix.index is not None and hangs(call.asked.scores, call.asked.hidden, call.mix.index, TIE[dtype]):
            first = min(first, at)

    if not any(getattr(getattr(block.mix, "cache", None), "sparse", False) for block in model.blocks):
        return first
    state = model.init_state(1)
    with watched(model, look):
        for at in range(ids.shape[1]):  # noqa: B007  # `look` reads it
            _, state = model(ids[:, at : at + 1], state, inplace=True)
            if first <= at:
                break
    return max(first, 1)


def hangs(scores: Tensor, hidden: Tensor | None, chosen: Tensor, error: float) -> bool:
    """Whether scores [R, Q, N] that are off by `error` could choose others than `chosen` [R, Q, k]."""
    low, high = in_steps(scores - error), in_steps(scores + error)
    sure = low == high
    taken = torch.zeros_like(sure).scatter(-1, chosen, True)
    left = ~taken if hidden is None else ~taken & ~hidden
    taken = taken if hidden is None else taken & ~hidden
    weakest, strongest = low.masked_fill(~taken, torch.inf), high.masked_fill(~left, -torch.inf)
    unsure = strongest.masked_fill(sure, -torch.inf).amax(-1) >= weakest.amin(-1)
    return bool((unsure | (strongest.amax(-1) >= weakest.masked_fill(sure, torch.inf).amin(-1))).any())
