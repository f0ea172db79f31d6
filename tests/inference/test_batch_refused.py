"""What a batch refuses, and that nothing is lost by it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import BatchFull, BusyError, CheckpointError, InputError, PositionError, SessionFileError, SessionMismatch
from siltstone.inference.runtime import Runtime
from siltstone.text import ByteTokenizer
from tests.inference.conftest import small_model

DIRECT: dict[str, Callable[[st.Session, Path], Any]] = {
    "append": lambda s, path: s.append("more"),
    "append_scored": lambda s, path: s.append_scored("more"),
    "score": lambda s, path: s.score("more"),
    "generate": lambda s, path: s.generate(2),
    "fork": lambda s, path: s.fork(),
    "snapshot": lambda s, path: s.snapshot(),
    "rollback": lambda s, path: s.rollback(0),
    "save": lambda s, path: s.save(path / "a.silt"),
    "join": lambda s, path: st.Batch(s.model, s.tokenizer).join(s),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", DIRECT)
def test_the_old_handle(name: str, session: st.Session, tok: ByteTokenizer, tmp_path: Path, same: Any) -> None:
    want = session.fork()
    pieces = session.generate(3)
    batch = st.Batch(session.model, tok)  # type: ignore[arg-type]
    member = batch.join(session)
    member.feed("xy")
    batch.run()
    for call in (DIRECT[name], lambda s, path: next(pieces), lambda s, path: batch.join(s)):
        with pytest.raises(BusyError, match="is in a batch"):
            call(session, tmp_path)
    assert member.leave() is session
    want.append([120])
    want.append([121])
    assert session.position == want.position and torch.allclose(session.logits, want.logits, atol=1e-4)  # type: ignore[arg-type]
    session.append("more")


@pytest.mark.parametrize(
    "keys,words",
    [
        (dict(slots=0), "slots=0"),
        (dict(slots=2.0), "slots=2.0"),
        (dict(slice=0), "slice=0"),
        (dict(slice=True), "slice=True"),
        (dict(model="a"), "model is a str"),
        (dict(tokenizer=None), "tokenizer is a NoneType"),
    ],
)
def test_a_batch_that_cannot_be(model: st.LM, tok: ByteTokenizer, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        st.Batch(**({"model": model, "tokenizer": tok} | keys))


def test_sessions_that_do_not_fit(model: st.LM, tok: ByteTokenizer, tmp_path: Path) -> None:
    other = small_model(seed=1)
    words = type("Words", (ByteTokenizer,), {"fingerprint": "another"})()
    batch = st.Batch(model, tok)
    for session, error, said in (
        (st.Session(other, tok), SessionMismatch, "another model"),
        (st.Session(model, words), SessionMismatch, "another tokenizer"),
        (tmp_path / "none.silt", SessionFileError, "none.silt"),
        (3, InputError, "session is a int"),
    ):
        with pytest.raises(error, match=said):
            batch.join(session)  # type: ignore[arg-type]
        if isinstance(session, st.Session):
            session.append("it is as it was")
    assert len(batch) == 0


@pytest.mark.parametrize(
    "ids", [[259], [-1], [[1, 2], [3, 4]], [1.5], [True, False], torch.ones(3), torch.ones(2, 3, dtype=torch.long), None]
)
def test_ids_of_the_wrong_kind(model: st.LM, tok: ByteTokenizer, ids: Any) -> None:
    batch = st.Batch(model, tok)
    member = batch.join()
    with pytest.raises(InputError):
        member.feed(ids)
    assert not batch.turn() and member.position == 0


def test_options_and_prompts(model: st.LM, tok: ByteTokenizer) -> None:
    member = st.Batch(model, tok).join()
    member.feed("")
    with pytest.raises(InputError, match="prompt is empty"):
        member.generate(3)
    member.feed("a")
    for keys in (dict(max_new_tokens=-1), dict(temperature=-1), dict(top_k=0), dict(top_p=2), dict(stop=""), dict(seed="x")):
        with pytest.raises(InputError):
            member.generate(**keys)  # type: ignore[arg-type]
    with pytest.raises(PositionError):
        member.rollback(0)
    assert member.position == 1 and len(member.generate(3, seed=1).result()) > 0


def test_a_full_batch(model: st.LM, tok: ByteTokenizer, session: st.Session) -> None:
    batch = st.Batch(model, tok, slots=2)
    a, b = batch.join(session), batch.join()
    for call in (batch.join, lambda: batch.join(st.Session(model, tok)), a.fork):
        with pytest.raises(BatchFull, match="all 2 slots"):
            call()
    b.leave()
    assert a.fork().position == session.position


def test_after_leaving(session: st.Session, tok: ByteTokenizer, tmp_path: Path) -> None:
    batch = st.Batch(session.model, tok)  # type: ignore[arg-type]
    member = batch.join(session)
    member.leave()
    calls: list[Callable[[], Any]] = [
        member.leave, member.fork, member.snapshot, member.cancel, lambda: member.feed("a"), lambda: member.generate(1),
        lambda: member.rollback(1), lambda: member.save(tmp_path / "a.silt"), lambda: member.position, lambda: member.logits,
        lambda: member.nbytes, lambda: member.notes,
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(InputError, match="has left the batch"):
            call()
    assert batch.join(session).position == session.position


def test_a_closed_batch(session: st.Session, tok: ByteTokenizer) -> None:
    with st.Batch(session.model, tok) as batch:  # type: ignore[arg-type]
        member, fresh = batch.join(session), batch.join()
        long, writing = fresh.feed([97] * 600), member.generate(50)
        batch.turn()
        position = fresh.position
    for call in (batch.join, batch.turn, batch.run):
        with pytest.raises(InputError, match="closed"):
            call()
    with pytest.raises(InputError, match="cancelled after 256 of 600"):
        long.result()
    assert len(writing.tokens) == 1 and writing.result() == "".join(writing.pieces)
    session.append("it goes on")
    assert position == 256 and batch.close() == []


def test_closing_gives_the_sessions_back(model: st.LM, tok: ByteTokenizer) -> None:
    batch = st.Batch(model, tok)
    batch.join().feed("abc")
    batch.join()
    batch.run()
    assert [s.position for s in batch.close()] == [3, 0]


def test_cancelled_work_ends_where_it_stands(model: st.LM, tok: ByteTokenizer) -> None:
    batch = st.Batch(model, tok, slice=8)
    member = batch.join()
    read, writing = member.feed([97] * 20), member.generate(5)
    batch.turn()
    member.cancel()
    assert member.position == 8 and read.done and writing.done and writing.result() == ""
    with pytest.raises(InputError, match="after 8 of 20"):
        read.result()
    assert member.leave().position == 8


@pytest.mark.parametrize("how", ["in place", "assigned"])
def test_a_model_that_changes_under_its_sessions(how: str, tok: ByteTokenizer, tmp_path: Path) -> None:
    model = small_model()
    batch, old = st.Batch(model, tok), small_model()
    member = batch.join()
    read = member.feed("the first")
    batch.run()
    late = member.feed("the second")
    before = st.Session(model, tok)
    with torch.no_grad():
        if how == "in place":
            model.norm.weight.mul_(2)
        else:
            model.norm.weight = torch.nn.Parameter(2 * model.norm.weight)
    for call in (batch.turn, batch.run, late.result, batch.join, lambda: batch.join(before)):
        with pytest.raises(SessionMismatch, match="norm.weight"):
            call()
    assert read.done and not late.done and member.position == 9
    with torch.no_grad():
        model.norm.weight.copy_(old.norm.weight)
    assert late.result().numel() == 0 and member.position == 19
    member.save(tmp_path / "a.silt")


def test_a_change_that_torch_does_not_count(tok: ByteTokenizer, tmp_path: Path) -> None:
    """It is found by the checks of a saved session."""
    model = small_model()
    member = st.Batch(model, tok).join()
    member.feed("the first")
    model.norm.weight.data.mul_(2)
    with pytest.raises(SessionMismatch, match="norm.weight"):
        member.save(tmp_path / "a.silt")
    model.norm.weight.data.div_(2)
    member.save(tmp_path / "a.silt")


def test_a_step_that_fails_is_told_and_others_go_on(model: st.LM, tok: ByteTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = st.Batch(model, tok)
    a, b, c = batch.join(), batch.join(), batch.join()
    for member in (a, b, c):
        member.feed("some words")
    mark = a.snapshot()
    good = Runtime.step

    def bad(*given: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(Runtime, "step", bad)
    first, second, long = a.feed([97]), b.feed([98]), c.feed([99] * 10)
    behind = a.feed("behind it")
    batch.turn()
    monkeypatch.setattr(Runtime, "step", good)
    assert long.done and long.error is None
    for work in (first, behind):
        with pytest.raises(MemoryError):
            work.result()
    with pytest.raises(MemoryError):  # the result of `second` was not asked for
        batch.run()
    assert second.error is not None
    with pytest.raises(InputError, match="roll back to a mark"):
        b.snapshot()
    assert a.rollback(mark) == 0 and a.feed("ab").result().numel() == 0 and a.position == 12
    assert b.leave() is not None and c.leave().position == 20


def test_predictions_that_are_not_numbers(tok: ByteTokenizer) -> None:
    model = small_model()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    batch = st.Batch(model, tok)
    member = batch.join()
    member.feed("a")
    writing = member.generate(3)
    with pytest.raises(CheckpointError, match="not finite"):
        batch.run()
    with pytest.raises(CheckpointError):
        writing.result()
    assert member.leave().position == 1


def test_a_hook_that_calls_the_batch(tok: ByteTokenizer) -> None:
    model = small_model()
    batch, met = st.Batch(model, tok), []
    member = batch.join()

    def hook(*given: Any) -> None:
        for call in (batch.turn, batch.run, member.leave, member.snapshot, batch.close):
            with pytest.raises(BusyError):
                call()
            met.append(call)

    model.norm.register_forward_hook(hook)
    member.feed("abc")
    batch.run()
    assert len(met) == 15 and member.position == 3


def test_two_threads_do_not_run_it(model: st.LM, tok: ByteTokenizer) -> None:
    batch, stop, began = st.Batch(model, tok), threading.Event(), threading.Event()

    def until() -> bool:
        began.set()
        return stop.is_set()

    thread = threading.Thread(target=batch.run, args=(until,))
    thread.start()
    assert began.wait(20)
    with pytest.raises(BusyError, match="run already"):
        batch.run()
    stop.set()
    thread.join()
    batch.run()
