"""Compiled steps: every case of the grid traces without a break, and gives what eager steps give."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.inference.program import CompiledStep
from siltstone.models.stream_state import LMState

from ..contract import test_blocks as blocks
from ..contract.common import close, generic
from ..contract.grid import CASES, CHOSEN, LENGTH, Case, used
from ..torture.factor import FACTOR

AGES, TURNS, VOCAB = (0, 4, 9, 14), 5, 11
TEXT = torch.randint(VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(0))


def model_of(cfg: dict[str, Any], **more: Any) -> st.LM:
    keys = used(cfg) | {"depth": 1, "vocab_size": VOCAB, "mlp_dim": 8} | more
    return generic(st.LM(st.LMConfig.from_dict(keys))).eval()


def cuts_at(case: Case, positions: list[int]) -> torch.Tensor | None:
    return None if case.cuts is None else torch.tensor([p in case.cuts for p in positions], dtype=torch.bool)


def same(got: tuple[torch.Tensor, LMState], want: tuple[torch.Tensor, LMState], active: torch.Tensor) -> None:
    """The same logits and states; a program's bank may have more places, and what is in a place without a span means nothing."""
    close(got[0][active], want[0][active])
    for (name, x), y in zip(got[1].tensors().items(), want[1].tensors().values(), strict=True):
        if "runners" in name:
            continue
        x = x[tuple(slice(n) for n in y.shape)]
        if x.is_floating_point():
            close(torch.where(x == y, 0.0, x), torch.where(x == y, 0.0, y), name)
        else:
            assert x.equal(y), name


@pytest.mark.parametrize("case", CASES if FACTOR > 1 else CHOSEN[:: max(1, len(CHOSEN) // 8)])
def test_a_program_does_what_a_step_does(case: Case) -> None:
    """Rows of four ages, some of them inactive."""
    model, draw = model_of(case.cfg), random.Random(0)
    program = CompiledStep(model, wait="all", backend="eager")
    with torch.no_grad():
        rows = []
        for age in AGES:
            cut = cuts_at(case, list(range(age)))
            start = model.init_state(1, [case.phase])
            rows.append(model(TEXT[None, :age], start, cut=None if cut is None else cut[None])[1])
        state = LMState.cat(rows)
        other = state.fork()
        for turn in range(TURNS):
            at = state.position.tolist()
            active = torch.tensor([b != turn % len(AGES) and draw.random() < 0.9 for b in range(len(AGES))])
            ids, cut = TEXT[at], cuts_at(case, at)
            want = model.step(ids, state, active, cut)
            got = program.step(ids, other, (active, cut, None))
            state, other = want[1], got[1]
            same(got, want, active)
    assert program.compiled <= 2


@pytest.mark.parametrize("name", blocks.CASES if FACTOR > 1 else ["plain", "sinks", "groups-of-heads", "normed-and-convolved"])
def test_a_program_of_blocks_does_what_a_step_does(name: str) -> None:
    """Rows of four ages, some of them inactive: groups begin, and blocks are sealed and chosen, at another token in every row."""
    model, draw = blocks.make(blocks.CASES[name]), random.Random(0)
    program, ages = CompiledStep(model, wait="all", backend="eager"), (0, 9, 14, 27)
    truth, chosen = blocks.truth(name)[0], set()
    with torch.no_grad():
        state = LMState.cat([model(blocks.IDS[:1, :age])[1] for age in ages])
        other = state.fork()
        for turn in range(8):
            at = state.position.tolist()
            active = torch.tensor([b != turn % len(ages) or draw.random() < 0.5 for b in range(len(ages))])
            want = model.step(blocks.IDS[0, at], state, active)
            got = program.step(blocks.IDS[0, at], other, (active, None, None))
            state, other = want[1], got[1]
            same(got, want, active)
            close(got[0][active], truth[at][active])
            chosen.add(str(state.layers[0].chosen.tolist()))
    assert program.compiled <= 2 and len(chosen) > 1


SMALL: dict[str, Any] = dict(cache="gated", d_model=8, heads=2, window=3, segment=4, router_dim=4)


def grown(
    program: CompiledStep, model: st.LM, tokens: int, rows: int = 1, begun: tuple[LMState, LMState] | None = None
) -> tuple[LMState, LMState]:
    """The states after some more tokens of eager and of compiled steps; the logits agree."""
    ids = torch.randint(VOCAB, (tokens, rows), generator=torch.Generator().manual_seed(1))
    start = model.init_state(rows)
    state, other = begun or (start, start)
    for each in ids:
        want, state = model.step(each, state)
        got, other = program.step(each, other)
        close(got, want)
    return state, other


@pytest.mark.parametrize("pattern", ["m", "mwa"])
def test_programs_are_made_once_for_a_room(pattern: str) -> None:
    """Blocks of one configuration share programs; a bank of 64 places, or a cache of 64 tokens, is doubled when it is full."""
    model = model_of(SMALL | dict(cache="sparse", top_k=2, segment=2), depth=len(pattern) + 1, pattern=pattern)
    program = CompiledStep(model, wait="all", backend="eager")
    with torch.no_grad():
        states = grown(program, model, 63)
        assert program.compiled == len(set(pattern))
        states = grown(program, model, 7, begun=states)
        assert program.compiled == len(set(pattern)) + ("a" in pattern)  # 64 tokens are in the cache, 33 segments in the bank
        grown(program, model, 2 * 64 + 8 - 70, begun=states)
        assert program.compiled == {"m": 2, "mwa": 6}[pattern]
        grown(program, model, 20, rows=4)
        assert program.compiled == {"m": 3, "mwa": 9}[pattern]
        before = program.compiled
        grown(program, model, 5, rows=3)  # no programs for this number of rows
        assert program.compiled == before


def test_shared_routing_and_a_step_that_is_kept() -> None:
    """Blocks that share a routing run in one program; without `inplace` the state given stays as it is."""
    layers = {"1": dict(routing="shared"), "2": dict(routing="shared")}
    model = model_of(SMALL | dict(cache="sparse", top_k=2), depth=4, layers=layers)
    program = CompiledStep(model, wait="all", backend="eager")
    with torch.no_grad():
        state, _ = grown(program, model, 30)
        kept = {name: x.clone() for name, x in state.tensors().items()}
        for _ in range(2):
            close(program.step(TEXT[:1], state, inplace=False)[0], model.step(TEXT[:1], state)[0])
        assert all(x.equal(kept[name]) for name, x in state.tensors().items())
    assert program.compiled == 2


def test_eager_steps_serve_while_a_program_is_compiled() -> None:
    model, released = model_of(SMALL), threading.Event()

    def slow(graph: Any, inputs: Any) -> Any:
        assert released.wait(60)
        return graph

    program = CompiledStep(model, wait="none", backend=slow)
    with torch.no_grad():
        grown(program, model, 5)
        assert program.compiled == 0 and not program.ready
        released.set()
        program.join()
        assert program.compiled == 1 and program.ready
        grown(program, model, 5)


def test_a_compiler_that_fails_leaves_eager_steps() -> None:
    model = model_of(SMALL)

    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such instruction")

    program = CompiledStep(model, wait="none", backend=broken)
    with torch.no_grad():
        grown(program, model, 2)
        program.join()
        assert "no such instruction" in str(program.failed)
        grown(program, model, 2)
        with pytest.raises(Exception, match="no such instruction"):
            CompiledStep(model, wait="all", backend=broken).step(TEXT[:1], model.init_state(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own
@pytest.mark.parametrize("cache,rows", [("sparse", 1), ("sparse", 4), ("blocks", 4)])
def test_compiled_by_inductor(cache: str, rows: int) -> None:
    keys = dict(router="subblock:2", cache_options=dict(router_queries=2, route_every=3)) if cache == "blocks" else {}
    kept = {k: v for k, v in SMALL.items() if k != "router_dim" or cache != "blocks"}
    model = model_of(kept | dict(cache=cache, top_k=2) | keys, depth=2).float()
    program = CompiledStep(model, wait="all")
    ids = torch.randint(VOCAB, (30, rows), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        state = other = model.init_state(rows)
        for each in ids:
            want, state = model.step(each, state)
            got, other = program.step(each, other)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_process_ends_while_a_program_is_compiled() -> None:
    """At once, without a message."""
    script = """
import sys, torch, siltstone as st
from siltstone.inference.program import CompiledStep
model = st.LM(st.presets.nano(50)).eval()
program = CompiledStep(model, wait="none")
_, state = program.step(torch.tensor([1]), model.init_state(1))
import time; time.sleep(float(sys.argv[1]))
assert not program.ready
"""
    for seconds in ("0", "1"):
        done = subprocess.run([sys.executable, "-c", script, seconds], capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
