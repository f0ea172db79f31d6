"""Sessions that join, leave and fork in a batch copy their own rows, and nothing of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import OutOfMemory
from siltstone.inference.rows import Rows
from siltstone.models.stream_state import LMState
from siltstone.state import tree
from tests.inference.conftest import small_model
from tests.inference.test_batch_pages import Copied

TINY: dict[str, Any] = dict(d_model=16, segment=4, window=4, router_dim=4)
KINDS: dict[str, dict[str, Any]] = {
    "transformer": dict(pattern="a"),
    "hybrid": dict(pattern="am", cache="sparse", top_k=2),
    "blocks": dict(cache="blocks", router="subblock:2", top_k=2, cache_options=dict(router_queries=2, route_every=3)),
    "dense": dict(cache="gated"),
    "residual": dict(cache="residual"),
    "soup": dict(cache="soup"),
    "sparse": dict(cache="sparse", top_k=2),
}
IDLE = {"transformer": ("segment", "window", "router_dim"), "blocks": ("router_dim",), "residual": ("router_dim",)}
every_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind: str, frozen: bool = True) -> st.LM:
    keys = {k: v for k, v in (TINY | KINDS[kind]).items() if k not in IDLE.get(kind, ())}
    model = small_model(**keys).double()
    return st.freeze(model) if frozen else model


def arranged(model: st.LM, ages: list[int]) -> tuple[Rows, list[LMState]]:
    """Four rows, of which one is empty, and the states that are in them."""
    batch = st.Batch(model, st.ByteTokenizer(), runtime="eager")
    states = [model(ids(age))[1] for age in ages]
    rows = batch._turns.rows
    rows.arrange(dict(enumerate(states)), 4)
    return rows, states


def ids(number: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 250, (1, number), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("way", ["joins", "leaves", "forks"])
@every_kind
@torch.no_grad()
def test_bytes_that_are_copied_do_not_grow_with_the_others(kind: str, way: str) -> None:
    model, found = model_of(kind), []
    for others in (60, 600):
        rows, _ = arranged(model, [others, 20, others])
        with Copied() as copied:
            if way == "joins":
                rows.arrange({3: model(ids(8))[1]}, 4)
            elif way == "forks":
                rows.arrange({3: rows.row(1)}, 4)
            else:
                rows.row(1)
                rows.drop(1)
                rows.arrange({}, 4)
        found.append(copied.bytes)
    assert found[1] <= found[0] + 64  # bytes


@every_kind
@torch.no_grad()
def test_rows_that_come_and_go_in_place(kind: str) -> None:
    """Slots are used again by shorter and by longer texts, memory grows and shrinks, and every row goes on as alone."""
    model = model_of(kind)
    rows, states = arranged(model, [9, 30, 14])
    alone: dict[int, Any] = dict(enumerate(states))
    script = [(1, 0), (3, 50), (0, 70), (1, 5), (3, 0), (3, 2), (0, 0), (2, 0), (0, 600), (0, 0), (0, 3)]  # slot, age; 0: leaves
    for turn, (slot, age) in enumerate(script):
        if not age:
            rows.drop(slot)
            del alone[slot]
            rows.arrange({}, 4)
        else:
            alone[slot] = model(ids(age, turn))[1]
            rows.arrange({slot: alone[slot].fork()}, 4)
        for t in range(2):
            tokens = {b: 100 + 7 * turn + b + t for b in alone}
            got = rows.step(tokens)
            for b, token in tokens.items():
                want, alone[b] = model.step(torch.tensor([token]), alone[b])
                assert float((got[b] - want[0]).abs().max()) < 1e-10, (turn, b)
    assert rows.live == set(alone)


@pytest.mark.parametrize("kind", ["transformer", "dense"])
@torch.no_grad()
def test_memory_of_a_long_row_is_given_back(kind: str) -> None:
    def room(rows: Rows) -> int:
        assert rows.state is not None
        return max(layer.room for layer in rows.state.layers)

    model = model_of(kind)
    rows, _ = arranged(model, [3000, 20, 20])
    long = room(rows)
    rows.drop(0)
    rows.arrange({}, 4)
    assert room(rows) <= 64 < long


@pytest.mark.parametrize("kind", ["transformer", "blocks", "dense", "sparse"])
@torch.no_grad()
def test_what_a_session_leaves_behind_reaches_nobody(kind: str) -> None:
    """NaN in every number of a session that leaves: the next one in its slot, with a shorter text, reads none."""
    model = model_of(kind)
    rows, states = arranged(model, [20, 30, 14])
    bad = states[1].flat().fork()
    for tensor in (x for layer in bad.layers for _, leaf in layer.leaves() for x in getattr(leaf, "leaves", (leaf,))):
        if tensor.is_floating_point():
            tensor.fill_(torch.nan)
    rows.arrange({3: bad}, 4)
    rows.step({0: 1, 3: 1})
    rows.drop(3)
    young = model(ids(5))[1]
    rows.arrange({3: young.fork()}, 4)
    got, (want, _) = rows.step({0: 2, 3: 7}), model.step(torch.tensor([7]), young)
    assert float((got[3] - want[0]).abs().max()) < 1e-10


@pytest.mark.parametrize("kind", ["transformer", "blocks", "dense"])
@torch.no_grad()
def test_without_memory_nothing_has_changed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is too long for the memory does not enter; the others go on, and it enters when there is room."""
    model = model_of(kind)
    rows, states = arranged(model, [9, 30, 14])
    young, good = model(ids(300))[1], tree.padded
    calls = []

    def full(x: Any, axis: int, room: int, used: int | None = None) -> Any:
        calls.append(room)
        if len(calls) > 1:
            raise OutOfMemory("no memory")
        return good(x, axis, room, used)

    monkeypatch.setattr(tree, "padded", full)
    with pytest.raises(OutOfMemory):
        rows.arrange({3: young.fork()}, 4)
    monkeypatch.undo()

    def same(slots: dict[int, LMState]) -> None:
        got = rows.step(dict.fromkeys(slots, 5))
        for b, state in slots.items():
            want, slots[b] = model.step(torch.tensor([5]), state)
            assert float((got[b] - want[0]).abs().max()) < 1e-10

    alone = dict(enumerate(states))
    same(alone)
    alone[3] = young
    rows.arrange({3: young.fork()}, 4)
    same(alone)


def test_forks_of_a_member_and_marks_are_their_own() -> None:
    """What a mark or a fork holds does not change when its session's row is written in place."""
    model = model_of("transformer")
    batch = st.Batch(model, st.ByteTokenizer(), slots=4, runtime="eager")
    members = [batch.join() for _ in range(3)]
    for i, member in enumerate(members):
        member.feed("words " * (i + 1))
        member.feed("a")
    batch.run()
    mark, want = members[1].snapshot(), members[1].copy()
    for _ in range(3):
        twin = members[1].fork()
        twin.feed("zz")
        batch.run()
        twin.leave()
    members[1].feed("other words")
    batch.run()
    members[1].rollback(mark)
    texts: list[Callable[..., Any]] = [members[1].generate, want.generate]
    a, b = (f(9, temperature=0) for f in texts)
    assert a.result() == "".join(b)


@torch.no_grad()
def test_heads_of_rows_choose_blocks_of_their_own() -> None:
    """In one batch, each row and each key-value head reads the blocks that it reads alone."""
    model = st.freeze(small_model(**(TINY | KINDS["blocks"] | dict(heads=4, kv_heads=2, depth=1))).double())
    states = [model(ids(60, seed))[1] for seed in range(4)]
    alone, rows = dict(enumerate(states)), st.Batch(model, st.ByteTokenizer(), runtime="eager")._turns.rows
    rows.arrange({b: state.fork() for b, state in alone.items()}, 4)
    apart = 0
    for t in range(12):
        tokens = {b: 100 + b + t for b in alone}
        got = rows.step(tokens)
        for b, token in tokens.items():
            want, alone[b] = model.step(torch.tensor([token]), alone[b])
            assert float((got[b] - want[0]).abs().max()) < 1e-10
        assert rows.state is not None
        chosen = torch.stack([x for name, x in rows.state.tensors().items() if name.endswith("chosen")])[0]
        assert all(chosen[b].equal(alone[b].tensors()["layers.0.chosen"][0]) for b in alone)
        apart += len({str(x) for x in chosen.flatten(0, 1).tolist()})
    assert apart > 24  # several choices among eight heads, at every token
