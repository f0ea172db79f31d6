"""The one check of an update rule: `step`, written out slot by slot, equals `chunk`, forward and backward, in float64.

A test file gives a `Rule` and is then a few lines; see test_gated.py. It needs no model, and no oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from siltstone.ops import mlp
from siltstone.ops.norm import l2

GROUPS, HEADS, KEY, VALUE = 2, 2, 3, 4
Leaves = tuple[Tensor, ...]
Rand = Callable[..., Tensor]  # normal numbers [G, S, L, H, *tail], of states [G, H, *tail]


@dataclass(frozen=True)
class Case:
    """Segment chunks of `slots` slots, in chunks of `size`; `rate` queries a slot, writes made `group` at a time."""

    segment_chunks: int = 1
    slots: int = 8
    size: int = 4
    rate: int = 1
    group: int = 1
    empty: bool = False  # some slots, before and behind a segment chunk's writes, hold none


CASES = pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(slots=4), id="one_chunk"),
        pytest.param(Case(slots=12), id="chunks"),
        pytest.param(Case(segment_chunks=3), id="segment chunks"),
        pytest.param(Case(segment_chunks=2, empty=True), id="empty_slots"),
        pytest.param(Case(rate=3, empty=True), id="queries"),
        pytest.param(Case(segment_chunks=2, rate=2, group=2), id="groups"),
    ],
)
CUTS = pytest.mark.parametrize("cut", [1, 4, 6, 11])


def unit(x: Tensor) -> Tensor:
    """Unit vectors."""
    return l2(x)


@dataclass
class Rule:
    """What is needed of a rule.

    state, inputs   make a state's leaves, and the inputs by name, of random numbers
    step, chunk     the rule; `aligned`: chunks begin with every `size`-th slot, and step is told
                    when; `skips` (so too where aligned): chunk is told how many slots are empty before writes
    reads_empty     reads at slots without a write are those after the last one, and not nonsense that nobody asks for
    factors, join   what a read passes through, and what follows each of them
    """

    step: Callable[..., Any]
    chunk: Callable[..., Any]
    inputs: Callable[[Rand], dict[str, Tensor]]
    state: Callable[[Rand], Any] = lambda rand: rand(KEY, VALUE)
    factors: Callable[..., Leaves] = lambda matrix: (matrix,)
    activation: Callable[[int, Tensor, Tensor], Tensor] = lambda factor, z, query: z
    query: Callable[[Tensor], Tensor] = unit
    asked: int = KEY
    aligned: bool = False
    skips: bool = False
    reads_empty: bool = True

    def check(self, case: Case) -> None:
        """Outputs, states after each segment chunk, and the gradients of all that goes in."""
        drawn = self.drawn(case)
        ways = [way(case, *drawn) for way in (self.slot_by_slot, self.at_once)]
        if drawn[3] is not None and not self.reads_empty:
            there = drawn[3].repeat_interleave(case.rate, 2)[:, :, None, :, None]
            ways = [(out * there, *ends) for out, *ends in ways]
        for wanted, found in zip(*ways, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)
        flat = [*leaves(drawn[0]), *drawn[1].values(), drawn[2]]
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in ways[0]]
        totals = [sum((x * w).sum() for x, w in zip(way, weights, strict=True)) for way in ways]
        grads = [torch.autograd.grad(total, flat, materialize_grads=True) for total in totals]
        for wanted, found in zip(*grads, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)

    def check_cut(self, cut: int) -> None:
        """A segment chunk in two calls ends in the state, and gives the answers, of one."""
        case = Case(slots=12)
        state, inputs, z, valid, _ = self.drawn(case)
        whole = self.at_once(case, state, inputs, z, valid, torch.zeros(GROUPS, 1, dtype=torch.long))
        outs, first = [], 0
        for last in (cut, case.slots):
            low = first // case.size * case.size if self.aligned else first
            high = -(-last // case.size) * case.size if self.aligned else last
            here = torch.arange(low, high)
            there = ((first <= here) & (here < last)).expand(GROUPS, 1, -1)
            part = {name: x[:, :, low:high] for name, x in inputs.items()}
            skip = torch.full((GROUPS, 1), first - low)
            size = case.size if self.aligned else high - low
            out, *ends = self.at_once(replace(case, size=size), state, part, z[..., low:high, :], there, skip)
            outs.append(out[..., first - low : last - low, :])
            state, first = tuple(x[:, -1] for x in ends), last
            state = state if len(state) > 1 else state[0]
        for wanted, found in zip(whole, (torch.cat(outs, 3), *(x.unsqueeze(1) for x in leaves(state))), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)

    def drawn(self, case: Case) -> tuple[Any, dict[str, Tensor], Tensor, Tensor | None, Tensor]:
        """Random state, inputs, what becomes queries, slots that hold writes, and how many are empty before them."""
        draw = torch.Generator().manual_seed(0)

        def rand(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        def taken(x: Tensor) -> Tensor:
            return x.detach().requires_grad_()

        shape = GROUPS, case.segment_chunks, case.slots
        state = self.state(lambda *tail: rand(GROUPS, HEADS, *tail))
        state = taken(state) if isinstance(state, Tensor) else tuple(map(taken, state))
        inputs = {name: taken(x) for name, x in self.inputs(lambda *tail: rand(*shape, HEADS, *tail)).items()}
        z = taken(rand(GROUPS, case.segment_chunks, HEADS, case.slots * case.rate, self.asked))
        if not case.empty:
            return state, inputs, z, None, torch.zeros(shape[:2], dtype=torch.long)
        skip = torch.tensor([[1, 0, 2], [2, 0, 0]])[:, : case.segment_chunks]
        until = torch.tensor([[7, 0, 8], [8, 5, 4]])[:, : case.segment_chunks]
        slot = torch.arange(case.slots)
        return state, inputs, z, (skip[..., None] <= slot) & (slot < until[..., None]), skip

    def at_once(self, case: Case, state: Any, inputs: dict[str, Tensor], z: Tensor, valid: Any, skip: Tensor) -> Leaves:
        """Outputs [G, S, H, L * rate, V], and the leaves of the state after each segment chunk [G, S, ...], by `chunk`."""
        more = {"skip": skip} if self.aligned or self.skips else {}
        readers, ends = self.chunk(state, **inputs, valid=valid, size=case.size, **more)
        query = out = self.query(z)
        for factor, reader in enumerate(readers if isinstance(readers, tuple) else (readers,)):
            out = self.activation(factor, reader.read(out, case.group), query)
        return out, *leaves(ends)

    def slot_by_slot(self, case: Case, state: Any, inputs: dict[str, Tensor], z: Tensor, valid: Any, skip: Tensor) -> Leaves:
        """The same by `step`."""
        outs, ends = [], []
        for segment_chunk in range(case.segment_chunks):
            seen = []
            for slot in range(case.slots):
                more = {"begins": torch.full((GROUPS,), slot % case.size == 0)} if self.aligned else {}
                after = self.step(state, **{name: x[:, segment_chunk, slot] for name, x in inputs.items()}, **more)
                if valid is not None:
                    there = valid[:, segment_chunk, slot]
                    pairs = zip(leaves(after), leaves(state), strict=True)
                    kept = [torch.where(there.view(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in pairs]
                    after = kept[0] if isinstance(after, Tensor) else tuple(kept)
                state = after
                seen.append(state)
            ends.append(leaves(state))
            for i in range(case.slots * case.rate):
                write = i // case.rate
                now = seen[(write // case.group + 1) * case.group - 1]
                query = out = self.query(z[:, segment_chunk, :, i : i + 1])
                for factor, matrix in enumerate(self.factors(*leaves(now))):
                    out = self.activation(factor, out @ matrix, query)
                outs.append(out)
        out = torch.cat(outs, 2).unflatten(2, (case.segment_chunks, -1)).transpose(1, 2)
        return out, *(torch.stack(x, 1) for x in zip(*ends, strict=True))


def leaves(state: Any) -> Leaves:
    """The tensors of a state."""
    return (state,) if isinstance(state, Tensor) else tuple(state)


def as_vector(rule: Rule) -> Rule:
    """The same, with a state whose first leaf [G, H, V] is a vector that is read as it is."""
    return replace(rule, factors=lambda hidden, *_: (hidden.unsqueeze(-2),), query=torch.ones_like, asked=1)


def weights_of(network: nn.Module) -> Any:
    """Those of a network of torch's: of the token, of the state, and their biases."""
    return tuple(network.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def inner_batches(
    op: Any, inputs: Callable[[Rand], dict[str, Tensor]], state: Callable[[Rand], Any], most: Tensor | None
) -> Rule:
    """The Rule of an MLP memory, whose states begin with w_in and w_out. most: the limit of their norms."""
    return Rule(
        lambda *given, **more: op.step(*given, **more, most=most),
        lambda *given, **more: op.chunk(*given, **more, most=most),
        inputs,
        state,
        factors=lambda w_in, w_out, *_: (w_in, w_out),
        activation=mlp.activation,
        aligned=True,
    )


def network_rule(op: Any, network: type[nn.RNNBase], state: Callable[[Rand], Any]) -> Rule:
    """The Rule of a rule that runs one of torch's recurrent networks."""
    net = network(HEADS * 3, HEADS * VALUE, batch_first=True, dtype=torch.float64)
    rule = Rule(
        lambda state, token: op.step(state, token, weights_of(net)),
        lambda state, token, size, **more: op.chunk(net, state, token, **more),
        lambda rand: {"token": rand(3).flatten(-2)},
        state=state,
        skips=True,
    )
    return as_vector(rule)


LIMITS = torch.tensor([2.0, 3.0], dtype=torch.float64).view(2, 1, 1, 1, 1)  # of w_in and w_out, see inner_batches


def laws(one: Rule | None = None, /, **rules: Rule) -> type:
    """A class of the tests that a rule must pass, for one rule or for several by name."""
    found = {"rule": one} if one is not None else rules
    every = pytest.mark.parametrize("rule", [pytest.param(rule, id=name) for name, rule in found.items()])

    class Laws:
        @every
        @CASES
        def test_chunk_is_step_after_step(self, rule: Rule, case: Case) -> None:
            rule.check(case)

        @every
        @CUTS
        def test_a_split_changes_nothing(self, rule: Rule, cut: int) -> None:
            rule.check_cut(cut)

    return Laws
