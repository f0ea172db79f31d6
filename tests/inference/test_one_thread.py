"""A session entered by two threads at once raises in the second, and loses nothing."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import siltstone as st
from siltstone.errors import BusyError, InputError

CALLS: dict[str, Callable[[st.Session, Path], Any]] = {
    "append": lambda s, path: s.append("more"),
    "append_scored": lambda s, path: s.append_scored("more"),
    "score": lambda s, path: s.score("more"),
    "generate": lambda s, path: list(s.generate(2)),
    "fork": lambda s, path: s.fork(),
    "snapshot": lambda s, path: s.snapshot(),
    "rollback": lambda s, path: s.rollback(s.position),
    "save": lambda s, path: s.save(path / "a.silt"),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_second_thread_is_told(
    name: str, session: st.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Any
) -> None:
    inside, leave = threading.Event(), threading.Event()
    before, call = session.fork(), session._call

    def slow(*args: Any, **keys: Any) -> Any:
        inside.set()
        assert leave.wait(20)
        return call(*args, **keys)

    monkeypatch.setattr(session, "_call", slow)
    other = threading.Thread(target=session.append, args=("first",))
    other.start()
    assert inside.wait(20)
    with pytest.raises(BusyError, match="another thread is inside"):
        CALLS[name](session, tmp_path)
    leave.set()
    other.join()
    monkeypatch.undo()
    before.append("first")
    assert same(session, before)
    CALLS[name](session, tmp_path)


def test_threads_that_append_at_will(session: st.Session) -> None:
    start, taken, busy = session.position, [], []

    def work() -> None:
        for _ in range(40):
            try:
                session.append([1, 2, 3])
                taken.append(3)
            except BusyError:
                busy.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert session.position == start + sum(taken) and len(taken) + len(busy) == 160


def test_forks_in_threads_are_as_if_alone(session: st.Session, same: Any) -> None:
    forks = [session.fork() for _ in range(4)]
    alone = [session.fork() for _ in range(4)]

    def work(fork: st.Session, number: int) -> None:
        for i in range(30):
            fork.append([(number * 31 + i * 7) % 256])

    threads = [threading.Thread(target=work, args=(fork, i)) for i, fork in enumerate(forks)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, fork in enumerate(alone):
        work(fork, i)
    assert all(same(a, b) for a, b in zip(forks, alone, strict=True))


@pytest.mark.parametrize("text", ["more", [7]], ids=["a chunk", "a token"])
def test_a_call_from_inside_a_call_is_told(text: Any, session: st.Session, same: Any) -> None:
    """A hook that appends to the session whose step it sees: what it read would be lost."""
    twin, told = session.fork(), []

    def hook(*_: Any) -> None:
        try:
            session.append("lost")
        except BusyError as error:
            told.append(str(error))

    handle = session.model.embed.register_forward_hook(hook)
    session.append(text)
    handle.remove()
    twin.append(text)
    assert told and all("called it again" in x for x in told) and same(session, twin)
    session.append("more")


def test_pieces_go_to_one_thread_at_a_time(session: st.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, leave, call = threading.Event(), threading.Event(), session._call

    def slow(*args: Any, **keys: Any) -> Any:
        inside.set()
        assert leave.wait(20)
        return call(*args, **keys)

    pieces, found = session.generate(3), []
    monkeypatch.setattr(session, "_call", slow)
    other = threading.Thread(target=lambda: found.append(next(pieces)))
    other.start()
    assert inside.wait(20)
    for entered in (lambda: next(pieces), pieces.close):
        with pytest.raises(BusyError, match="another thread waits for a piece"):
            entered()
    leave.set()
    other.join()
    assert found


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_a_copied_session_is_a_fork(how: Callable[[st.Session], st.Session], session: st.Session, same: Any) -> None:
    twin, wanted = how(session), session.fork()
    for token in range(40):  # each is written in place
        twin.append([token])
    assert same(session, wanted) and twin.model is session.model
    session.append("and on")
    wanted.append("and on")
    assert same(session, wanted)
    with pytest.raises(InputError, match="save it to a file"):
        pickle.dumps(session)
