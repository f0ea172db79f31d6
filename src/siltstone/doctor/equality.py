"""Reads the same tokens in all ways that must give the same logits.

    difference = max |logits - logits of one call| / max(1, max |logits of one call|)

The tolerance is 1e-5 in float32 and 1e-10 in float64. If checkpoints are rounded, it is one rounding step in float32: a value
between two codes may be rounded to either of them with another split. A state that was saved and restored must continue bit for
bit with the same calls. If rounding decides which of two checkpoints a sparse cache selects (their scores are at the border of
two steps), another split may select the other one: only the tokens before the first such place are compared. In float64 this is
very rare.
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
ROUNDED = {"float32": 0.0, "bfloat16": 2.0**-8, "int8": 1 / 127}  # one rounding step, relative to the largest value
TIE = {torch.float32: 1e-5, torch.float64: 1e-11}  # rounding error of scores, which are products of unit vectors


@dataclass(frozen=True)
class Check:
    """One way of reading, compared with one call.

    way, dtype    for example "a token a call", "float32"
    difference    as above, nan if logits are nan; must be at most `tolerance`
    token         index of the token with the largest difference
    tokens        number of tokens that were compared, of `of`
    same_bits     whether a restored state continued bit for bit; None if this is not checked
    cuts          number of segments that ended in the layer with the fewest; None if no layer seals any
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
        """Whether the check passed."""
        return self.difference <= self.tolerance and self.same_bits is not False


@dataclass(frozen=True)
class Reading:
    """The input of every way of reading: model, ids [1, T], a random generator, and a tokenizer for session files."""

    model: StreamingModel
    tokenizer: Tokenizer
    ids: Tensor
    random: np.random.Generator

    @property
    def half(self) -> int:
        """The token at which a stream is split in two: about its middle."""
        return self.ids.shape[1] // 2 + 1


Way = Callable[[Reading], tuple[Tensor, bool | None]]


def feed(
    model: StreamingModel, ids: Tensor, state: StreamingState | None, cuts: Sequence[int], inplace: bool = False
) -> tuple[Tensor, StreamingState]:
    """Logits [B, T, V] of several calls, split before the given columns, and the state after."""
    edges, outs = [0, *sorted(cuts), ids.shape[1]], []
    now = model.init_state(len(ids)) if state is None else state
    for a, b in zip(edges, edges[1:], strict=False):
        out, now = logits(model, ids[:, a:b], now, inplace=inplace)
        outs.append(out)
    return torch.cat(outs, 1), now


def _cuts(random: np.random.Generator, length: int) -> list[int]:
    """Random split points, at least two tokens apart; the first one is listed twice, so that one call has no tokens."""
    if length < 4:
        return []
    found = np.unique(2 * random.integers(1, length // 2, 3 + length // 64)).tolist()
    return [found[0], *found]


def chunks(r: Reading) -> tuple[Tensor, None]:
    """In calls of random lengths."""
    return feed(r.model, r.ids, None, _cuts(r.random, r.ids.shape[1]))[0], None


def steps(r: Reading) -> tuple[Tensor, None]:
    """One token a call, with in-place updates of the state, as in a session."""
    return feed(r.model, r.ids, None, range(1, r.ids.shape[1]), inplace=True)[0], None


def batch(r: Reading) -> tuple[Tensor, None]:
    """As one row of a batch; the other rows are at other positions and read other text."""
    other, length = r.ids.flip(1), r.ids.shape[1]
    starts = [logits(r.model, other[:, :n])[1] for n in (min(5, length), length // 3)]
    state = starts[0].cat([starts[0], r.model.init_state(1), starts[1]])
    rows = torch.cat([other, r.ids, r.ids.roll(length // 2, 1)])
    return feed(r.model, rows, state, _cuts(r.random, length))[0][1:2], None


def padded(r: Reading, left: int = 0, right: int = 0, inside: float = 0.0) -> tuple[Tensor, None]:
    """In two calls, each with padding before, after or (as a share of the tokens) between its tokens."""
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
    """After another document in the same row, separated by a reset."""
    before = r.ids.flip(1)[:, : r.half]
    ids = torch.cat([before, r.ids], 1)
    reset = torch.zeros_like(ids, dtype=torch.bool)
    reset[:, before.shape[1]] = True
    return logits(r.model, ids, reset=reset)[0][:, before.shape[1] :], None


def forked(r: Reading) -> tuple[Tensor, None]:
    """A fork continues the text while the original continues, in place, with another text."""
    first, original = feed(r.model, r.ids[:, : r.half], None, _cuts(r.random, r.half))
    fork, other, outs = original.fork(), r.ids.flip(1), [first]
    for t in range(r.half, r.ids.shape[1]):
        _, original = logits(r.model, other[:, t : t + 1], original, inplace=True)
        out, fork = logits(r.model, r.ids[:, t : t + 1], fork, inplace=True)
        outs.append(out)
    return torch.cat(outs, 1), None


def through_file(r: Reading) -> tuple[Tensor, bool]:
    """The first half in a session that is saved and loaded; the second half in both sessions."""
    session = Session(r.model, r.tokenizer)
    session.append(r.ids[0, : r.half])
    with tempfile.TemporaryDirectory(prefix="siltstone-") as folder:
        path = Path(folder) / "session.silt"
        session.save(path)
        back = Session.load(path, r.model, r.tokenizer)
    same = session.logits is not None and back.logits is not None and torch.equal(session.logits, back.logits)
    return _both(r, session._state, back._state, same and back.counters.recomputed == 0)


def through_tensors(r: Reading) -> tuple[Tensor, bool]:
    """The first half, then the state is converted to tensors and JSON and restored for the second half."""
    _, state = feed(r.model, r.ids[:, : r.half], None, _cuts(r.random, r.half))
    tensors = {name: x.clone() for name, x in state.tensors().items()}
    return _both(r, state, r.model.load_state(tensors, json.loads(json.dumps(state.meta()))), True)


def _both(r: Reading, kept: StreamingState, back: StreamingState, same: bool) -> tuple[Tensor, bool]:
    """Reads the second half from two states with the same calls and compares their bits. Returns the logits of the first half
    (one call) and the second half, and whether all bits are equal."""
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
    """Compares every way with one call, in the model's dtype. ids int64 [1, T], T >= 2."""
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
    """Number of sealed segments of a row in the layer with the fewest, of the layers that seal any; None if none does."""
    if not isinstance(model, LM):
        return None
    sealing = [block.mix.geo for block in model.blocks if isinstance(block.mix, Mixer) and block.mix.cache.keeps]
    return min((int(geo.sealed(state.positions)[0]) for geo in sealing), default=None)


def untied(model: StreamingModel, ids: Tensor) -> int:
    """Number of tokens before the first at which rounding decides the choice of a sparse cache; all tokens if there is none."""
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
    """Whether scores [R, Q, N] with an error of `error` could select other checkpoints than `chosen` [R, Q, k]."""
    low, high = in_steps(scores - error), in_steps(scores + error)
    sure = low == high
    taken = torch.zeros_like(sure).scatter(-1, chosen, True)
    left = ~taken if hidden is None else ~taken & ~hidden
    taken = taken if hidden is None else taken & ~hidden
    weakest, strongest = low.masked_fill(~taken, torch.inf), high.masked_fill(~left, -torch.inf)
    unsure = strongest.masked_fill(sure, -torch.inf).amax(-1) >= weakest.amin(-1)
    return bool((unsure | (strongest.amax(-1) >= weakest.masked_fill(sure, torch.inf).amin(-1))).any())
