"""Sessions of a batch hold pages: joining, leaving and forking copy the small running parts, and no checkpoints."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import siltstone as st
from siltstone.inference.program import CompiledStep
from siltstone.models.stream_state import LMState
from siltstone.state.paged import Pools
from tests.inference.conftest import small_model

SPARSE: dict[str, Any] = dict(cache="sparse", top_k=2, d_model=16, segment=4, window=4, router_dim=4)


class Copied(TorchDispatchMode):
    """The bytes of floating-point results that share no memory with what they were made of."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and not func.is_view:
            self.bytes += out.nbytes
        return out


def sessions(batch: st.Batch, tokens: int) -> list[Any]:
    """Three members that have read a text and written a token."""
    members = [batch.join() for _ in range(3)]
    for member in members:
        member.feed("x" * tokens)
        member.feed("y")
    batch.run()
    return members


def moved(tokens: int) -> dict[str, int]:
    """Bytes that are copied when sessions of so many tokens fork, join and leave, each with the step after it."""
    model = st.freeze(small_model(**SPARSE))
    batch = st.Batch(model, st.ByteTokenizer(), slots=4, slice=4096, runtime="eager")
    members, found = sessions(batch, tokens), {}
    with Copied() as copied:
        twin = members[0].fork()
        twin.feed("a")
        batch.run()
    found["fork"] = copied.bytes
    with Copied() as copied:
        session = twin.leave()
        members[1].feed("a")
        batch.run()
    found["leave"] = copied.bytes
    with Copied() as copied:
        batch.join(session).feed("a")
        batch.run()
    found["join"] = copied.bytes
    return found


def test_who_comes_and_goes_copies_no_checkpoints() -> None:
    model = small_model(**SPARSE)
    matrices = [x.nbytes for name, x in model(torch.zeros(1, 800, dtype=torch.int64))[1].tensors().items() if "store.0" in name]
    short, long = moved(40), moved(800)
    for how, count in long.items():
        assert count - short[how] < sum(matrices) / 2, how  # of 4 sessions: their routing keys grow, and are laid out


@pytest.mark.parametrize("keys", [{"routing": "shared", "checkpoint_dtype": "int8"}, {"memory": "deep", "depth": 1}], ids=str)
@torch.no_grad()
def test_a_program_reads_pages(keys: dict[str, Any]) -> None:
    model, pools = st.freeze(small_model(**(SPARSE | keys)).double()), Pools()
    ids = torch.randint(200, (4, 60), generator=torch.Generator().manual_seed(1))
    ages = (3, 14, 26, 31)
    plain = LMState.cat([model(ids[b : b + 1, :age])[1] for b, age in enumerate(ages)])
    state, program = plain.paged(pools, sparse=True), CompiledStep(model, wait="all", backend="eager")
    assert state.in_pages
    for t in range(4):
        want, plain = model.step(ids[:, 40 + t], plain)
        got, state = program.step(ids[:, 40 + t], state)
        assert state.in_pages and program.ready
        assert float((got - want).abs().max()) <= 1e-10


@torch.no_grad()
def test_a_pool_that_grows_gets_a_program_of_its_own() -> None:
    model, pools = st.freeze(small_model(**(SPARSE | {"depth": 1})).double()), Pools()
    ids = torch.randint(200, (1, 200), generator=torch.Generator().manual_seed(2))
    plain = model(ids[:, :21])[1]
    state, program = plain.paged(pools, sparse=True), CompiledStep(model, wait="all", backend="eager")
    for t in range(21, 26):
        want, plain = model.step(ids[:, t], plain)
        got, state = program.step(ids[:, t], state)
        assert float((got - want).abs().max()) <= 1e-10
        if t == 21:
            other = model(ids[:, :150])[1].paged(pools, sparse=True)
    assert program.compiled == 2 and other.in_pages


def test_layers_that_read_every_checkpoint_stay_plain() -> None:
    model = st.freeze(small_model(**(SPARSE | {"cache": "gated", "top_k": 4})))
    assert not model(torch.zeros(1, 30, dtype=torch.int64))[1].paged(Pools(), sparse=True).in_pages
