"""Memory that is full, and input that does not fit, for every kind of layer that grows: a clear error, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import BusyError, InputError, PoolFull, SessionMismatch
from siltstone.inference import runtime as runtimes
from siltstone.inference.program import CompiledStep
from siltstone.state import tree
from tests.inference.test_batch_rows import every_kind, model_of

TOK = st.ByteTokenizer()
GROWS = pytest.mark.parametrize("kind", ["transformer", "hybrid", "blocks", "dense", "sparse"])


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are traced and not compiled."""
    monkeypatch.setattr(runtimes, "CompiledStep", partial(CompiledStep, backend="eager"))


@contextmanager
def full_memory() -> Iterator[None]:
    """No memory for larger caches and banks of any session."""
    good = tree.padded

    def cat(*given: object, **more: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    def padded(*given: Any) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as none:
            none.setattr(torch, "cat", cat)
            return good(*given)

    with pytest.MonkeyPatch.context() as full:
        full.setattr(tree, "padded", padded)
        yield


EAGER = [(kind, "eager") for kind in ("transformer", "hybrid", "blocks", "dense")]


@pytest.mark.parametrize("kind,runtime", [*EAGER, ("blocks", "int8")])
def test_a_session_that_memory_has_no_room_for_goes_on_when_there_is(kind: str, runtime: str) -> None:
    session = st.Session(model_of(kind, frozen=False).float(), TOK, runtime)
    session.append("some words of a text, and more")
    session.append("x")
    want, refused = session.fork(), 0
    for token in range(100, 170):
        try:
            with full_memory():
                session.append([token])
        except PoolFull as error:
            assert "no memory for" in str(error) and "the state is as it was" in str(error)
            refused += 1
            session.append([token])
        want.append([token])
        if refused:
            break
    assert refused and session.logits is not None and want.logits is not None
    torch.testing.assert_close(session.logits, want.logits)


@pytest.mark.parametrize("kind,runtime", [*EAGER, ("blocks", "compiled")])
def test_a_batch_that_memory_has_no_room_for_loses_no_session(kind: str, runtime: str) -> None:
    """Work that failed says so; its sessions are whole, without a mark to go back to."""
    model = model_of(kind)
    batch = st.Batch(model, TOK, slots=4, runtime=runtime)
    members = [batch.join() for _ in range(3)]
    for i, member in enumerate(members):
        member.feed("some words of a text" * (i + 1))
        member.feed([98])
    batch.run()
    alone, refused = [st.Session(model, TOK, "eager") for _ in members], 0
    for i, session in enumerate(alone):
        session.append("some words of a text" * (i + 1) + "b")
    for token in range(100, 170):
        work = [member.feed([token]) for member in members]
        with full_memory():
            batch.turn()
        if any(each.error is not None for each in work):
            refused += 1
            for each in work:
                with pytest.raises(PoolFull, match="no memory for .* the state is as it was"):
                    each.result()
            for member in members:
                member.feed([token])
            batch.run()
        for session in alone:
            session.append([token])
        if refused:
            break
    assert refused
    for member, session in zip(members, alone, strict=True):
        left = member.leave()
        assert left.position == session.position and left.logits is not None and session.logits is not None
        assert float((left.logits - session.logits).abs().max()) < 1e-9


@GROWS
def test_a_session_that_joins_twice_and_a_model_that_changes(kind: str) -> None:
    model = model_of(kind, frozen=False)
    batch, session = st.Batch(model, TOK, slots=4), st.Session(model, TOK)
    session.append("some words of a text")
    member, want = batch.join(session), session_of(model, "some words of a text")
    member.feed("ab")
    batch.run()
    for again in (lambda: batch.join(session), lambda: st.Batch(model, TOK).join(session)):
        with pytest.raises(BusyError, match="is in a batch"):
            again()
    late, norm = member.feed("cd"), model.norm.weight
    with torch.no_grad():
        norm.mul_(2)
    for call in (batch.turn, late.result, batch.join):
        with pytest.raises(SessionMismatch, match="norm.weight"):
            call()
    with torch.no_grad():
        norm.div_(2)
    assert late.result().numel() == 0
    want.append("abcd")
    left = member.leave()
    assert left is session and left.position == want.position and left.logits is not None and want.logits is not None
    assert float((left.logits - want.logits).abs().max()) < 1e-9


def session_of(model: st.LM, text: str) -> st.Session:
    session = st.Session(model, TOK)
    session.append(text)
    return session


def flags(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.bool)


@every_kind
@torch.no_grad()
def test_ids_and_masks_of_the_wrong_shape(kind: str) -> None:
    """Refused before the state is changed, in place too."""
    model = model_of(kind)
    state = st.LMState.cat([model(torch.ones(1, n, dtype=torch.int64))[1] for n in (9, 14)])
    before = {name: x.clone() for name, x in state.tensors().items()}
    two = torch.tensor([1, 2])
    wrong: list[Callable[[], Any]] = [
        lambda: model.step(two[:, None], state, inplace=True), lambda: model.step(two[:1], state, inplace=True),
        lambda: model.step(two.double(), state, inplace=True), lambda: model.step(two + 258, state, inplace=True),
        lambda: model.step(two, state, flags(3), inplace=True), lambda: model.step(two, state, flags(2, 1), inplace=True),
        lambda: model.step(two, state, two, inplace=True), lambda: model.step(two, state, reset=flags(1), inplace=True),
        lambda: model(two[:, None], state, mask=flags(2, 2), inplace=True), lambda: model(two[:, None], state, mask=flags(2)),
        lambda: model(two, state, inplace=True),
        lambda: CompiledStep(model, wait="none").step(two, state, (flags(3), None, None)),
    ]  # fmt: skip
    for call in wrong:
        with pytest.raises(InputError):
            call()
    after = state.tensors()
    assert state.position.tolist() == [9, 14] and all(x.equal(after[name]) for name, x in before.items())
