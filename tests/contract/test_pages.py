"""Sealed states in pages: the same numbers, bit for bit, as in plain tensors, whatever free pages hold."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from siltstone.models.stream_state import LMState
from siltstone.state import Pools

from ..state.poison import poison
from .common import feed, init_state
from .grid import CASES, CHOSEN, Case
from .models import IDS, make_model, model_config, same_bits, the_model, through_bytes

AGES = (0, 1, 4, 9, 14, 19)


def growing(cases: list[Case]) -> list[Case]:
    """The cases with a bank that keeps every checkpoint, those with a budget without it."""
    kept = [case for case in cases if case.cfg["cache"] not in ("none", "exact") and case.cfg["segments"] != "logarithmic"]
    return [Case(tuple((case.factor | dict(budget="none")).items())) for case in kept]


PAGED = growing(CASES)
every_case = pytest.mark.parametrize("case", PAGED[::2])
every_pair = pytest.mark.parametrize("case", growing(CHOSEN))


def flags(case: Case, positions: list[int]) -> dict[str, Tensor]:
    return {} if case.cuts is None else {"cut": torch.tensor([p in case.cuts for p in positions])}


def both(run: Callable[[Callable[[LMState], LMState]], list[Any]]) -> None:
    """What `run` does with states in pages and with plain ones: outputs and states are the same."""
    pools, spoilt = Pools(), 0

    def in_pages(state: LMState) -> LMState:
        nonlocal spoilt
        poison(pools)
        spoilt += sum(int(pool.free.sum()) for pool in pools)
        return state.paged(pools)

    with torch.no_grad():
        plain, paged = run(lambda state: state), run(in_pages)
    assert spoilt, "no page was free"
    for x, y in zip(plain, paged, strict=True):
        if isinstance(x, Tensor):
            assert torch.equal(x, y)
        else:
            assert y.in_pages and not x.in_pages
            same_bits(x, y)
            same_bits(x, y.flat())


@every_case
def test_calls_and_steps_of_ragged_rows(case: Case) -> None:
    """Rows of all ages in one batch: steps with inactive rows and resets, and calls with padding."""
    model = the_model(case)

    def run(kept: Callable[[LMState], LMState]) -> list[Any]:
        draw, out = random.Random(0), []
        state = LMState.cat([kept(feed(model, IDS[:1, :age], kept(init_state(model, 1, case.phase)))[1]) for age in AGES])
        for turn in range(14):
            at = state.position.tolist()
            active = torch.tensor([draw.random() < 0.8 for _ in at])
            reset = torch.tensor([turn in (5, 6) and b == 4 for b in range(len(at))])
            ids = torch.stack([IDS[b % 3, min(p, 39)] for b, p in enumerate(at)])
            if turn % 5 == 3:
                y, state = model(ids[:, None], state, mask=active[:, None], inplace=turn == 8)
                y = y[:, 0]
            else:
                y, state = model.step(ids, state, active, reset=reset, inplace=turn % 2 == 0, **flags(case, at))
            state = kept(state)
            out.append(y[active])
        return [*out, state]

    both(run)


@every_pair
def test_one_row_in_calls_forks_and_steps(case: Case) -> None:
    """A stream in calls of many sizes, three forks that go on by themselves, rows taken apart and put together, and saving."""
    model = the_model(case)

    def run(kept: Callable[[LMState], LMState]) -> list[Any]:
        y, state = feed(model, IDS[:1, :17], kept(init_state(model, 1, case.phase)), [1, 2, 3, 9, 10], inplace=True)
        out, forks = [y], [state, state.fork(), state.fork().fork()]
        for turn, size in enumerate((1, 1, 1, 6, 1, 1, 1, 5)):
            for b in (2, 0, 1):
                y, forks[b] = model(IDS[b : b + 1, turn : turn + size], kept(forks[b]), inplace=turn % 2 == 0)
                out.append(y)
        joined = LMState.cat([*forks, state]).select([3, 0, 2, 2])
        y, joined = feed(model, IDS[:1, 9:19].expand(4, -1), joined, [1, 5, 6])
        back = kept(through_bytes(model, joined))
        z, back = feed(model, IDS[:1, 19:30].expand(4, -1), back, [4, 5, 6])
        return [*out, y, z, *forks, joined, back]

    both(run)


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("cache", ["gated", "sparse", "soup"])
def test_rounded_checkpoints(kind: str, cache: str) -> None:
    case = next(c for c in PAGED if c.factor["cache"] == cache and c.factor["cuts"] == "none")
    model = make_model(model_config(case.cfg, checkpoint_dtype=kind))

    def run(kept: Callable[[LMState], LMState]) -> list[Any]:
        y, state = feed(model, IDS, kept(init_state(model, 3, case.phase)), [3, 9, 10, 11, 12, 30])
        z, state = model.step(IDS[:, 0], kept(state.select([2, 0, 0])))
        return [y, z, state]

    both(run)


@every_pair
def test_gradients_leave_the_pool(case: Case) -> None:
    """A call that needs gradients goes on from pages in plain tensors, with the numbers and gradients of a plain state."""
    model = the_model(case)
    with torch.no_grad():
        _, state = feed(model, IDS[:1, :17], init_state(model, 1, case.phase), [5])
    grads = []
    for start in (state, state.paged()):
        embed = model.embed.weight.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            y, end = torch.func.functional_call(model, {"embed.weight": embed}, (IDS[:1, 17:36], start))
            grads.append((y.detach(), *torch.autograd.grad(y.sum(), embed)))
        assert not end.in_pages
    assert all(torch.equal(x, y) for x, y in zip(*grads, strict=True))
