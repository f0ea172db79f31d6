"""The store's files: pages are written once, what nobody needs is removed, and a crash or a fault loses nothing."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import SessionCorrupt, StorageError
from siltstone.inference import paging
from siltstone.io import system
from siltstone.serve.house import House
from siltstone.serve.marks import OWN
from siltstone.text import ByteTokenizer
from tests.inference.test_attended import KEYS

TEXT = "The ship sailed to the island, and the crew was glad of it. "
MODELS = {
    "blocks": KEYS,  # keys and values of every token
    "constant": {"vocab_size": 259, "d_model": 16, "heads": 2, "window": 8, "segment": 8, "segments": "constant", "depth": 2},
}
MODELS["logarithmic"] = MODELS["constant"] | {"segments": "logarithmic"}


@pytest.fixture(params=["constant"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A model whose state grows by entries, with small pages."""
    monkeypatch.setattr(paging, "PAGE", 4000)
    return model_of(request.param), ByteTokenizer()


def model_of(name: str) -> Any:
    torch.manual_seed(0)
    return st.LM(st.LMConfig.from_dict(MODELS[name])).eval().requires_grad_(False)


def files(folder: Path) -> tuple[set[str], set[str]]:
    heads, pages = ({path.name for path in (folder / name).iterdir()} for name in ("blobs", "pages"))
    return heads, pages


def keep(house: House, session: st.Session) -> str:
    return house.marks.keep("local", OWN, "", session.fork(), True)


def stored(house: House, id: str) -> st.Session:
    """The session of a mark, from its files."""
    row = house.store.mark(id, "local")
    assert row is not None and row.blob is not None
    return house.store.load(row.blob, house.model, house.tokenizer, "auto")


def equal(a: st.Session, b: st.Session) -> None:
    assert a.position == b.position and a.logits is not None and b.logits is not None and torch.equal(a.logits, b.logits)
    mine, theirs = a._state.tensors(), b._state.tensors()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert "".join(a.fork().generate(5, seed=1)) == "".join(b.fork().generate(5, seed=1))


@pytest.mark.parametrize("small", ["blocks", "constant"], indirect=True)
def test_pages_are_written_once(small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house, written = House(*small, name="small", folder=tmp_path), []
    monkeypatch.setattr(house.store._pages, "write", spied(house.store._pages.write, written))  # type: ignore[union-attr]
    s, ids, sizes = st.Session(*small), [], []
    for _ in range(6):
        s.append(TEXT * 3)
        ids.append(keep(house, s))
        sizes.append(len(files(tmp_path)[1]))
    assert sizes == sorted(sizes) and sizes[-1] > sizes[1] > 0
    assert len(written) == len({*written}) == sizes[-1]  # what was there was not written again
    heads = [house.store.path(house.store.mark(id, "local").blob).stat().st_size for id in ids]  # type: ignore[union-attr, arg-type]
    assert max(heads[2:]) < min(heads[2:]) + 3 * paging.PAGE  # heads do not grow
    again = st.Session(*small)
    again.append(TEXT * 18)
    before = files(tmp_path)
    keep(house, stored(house, ids[-1]))
    assert files(tmp_path) == before  # a fork's files are those of the session
    equal(stored(house, ids[-1]), s)
    equal(stored(house, ids[1]), stored(house, ids[1]))
    assert house.store.disk == sum(path.stat().st_size for name in ("blobs", "pages") for path in (tmp_path / name).iterdir())


def spied(call: Any, log: list[str]) -> Any:
    def write(digest: str, content: bytes) -> None:
        log.append(digest)
        call(digest, content)

    return write


def test_what_nobody_needs_is_removed(small: Any, tmp_path: Path) -> None:
    house = House(*small, name="small", folder=tmp_path)
    s = st.Session(*small)
    s.append(TEXT * 4)
    first, twin = keep(house, s), s.fork()
    s.append("left " * 60)
    twin.append("right " * 60)
    left, right = keep(house, s), keep(house, twin)
    house.marks.drop(left)
    equal(stored(house, right), twin)
    house.marks.drop(first)
    equal(stored(house, right), twin)
    house.marks.drop(right)
    assert files(tmp_path) == (set(), set()) and not house.store.do("SELECT * FROM pages") + house.store.do("SELECT * FROM holds")


@pytest.mark.parametrize("name", MODELS)
def test_a_restart_has_the_same_sessions(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE", 4000)
    pair = model_of(name), ByteTokenizer()
    house = House(*pair, name="small", folder=tmp_path)
    s = st.Session(*pair)
    s.append(TEXT * 5)
    id = keep(house, s)
    house.store.close()
    (tmp_path / "pages" / ("0" * 64 + ".page")).write_bytes(b"left behind")
    (tmp_path / "blobs" / ("0" * 64 + ".silt")).write_bytes(b"left behind")
    house = House(*pair, name="small", folder=tmp_path)
    equal(stored(house, id), s)
    assert not any(name.startswith("0" * 64) for names in files(tmp_path) for name in names)
    s.save(tmp_path / "whole.silt")
    equal(st.Session.load(tmp_path / "whole.silt", *pair), stored(house, id))
    house.store.close()


@pytest.mark.parametrize("how", ["missing", "damaged", "missing before the start"])
def test_a_page_that_is_lost(small: Any, tmp_path: Path, how: str) -> None:
    """The sessions that need it are forgotten; others stay."""
    house = House(*small, name="small", folder=tmp_path)
    other, s = st.Session(*small), st.Session(*small)
    other.append("x")
    s.append(TEXT * 6)
    ids = keep(house, s), keep(house, other)
    page = tmp_path / "pages" / min(files(tmp_path)[1])
    if how == "damaged":
        page.write_bytes(page.read_bytes()[:-1] + b"\xff")
    else:
        page.unlink()
    if how == "missing before the start":
        house.store.close()
        house = House(*small, name="small", folder=tmp_path)
        assert house.store.mark(ids[0], "local") is None
    else:
        with pytest.raises(SessionCorrupt, match="page"):
            stored(house, ids[0])
        house.marks._held.clear()
        row = house.store.mark(ids[0], "local")
        assert row is not None and house.marks.fork(row) is None and house.store.mark(ids[0], "local") is None
    equal(stored(house, ids[1]), other)


CALLS = ("open", "write", "fsync", "replace")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The calls of the system in their order; `fail` makes the number `at` of them fail."""

    class Calls:
        log: list[str] = []
        at = -1

    def spy(name: str, real: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            found.log.append(name)
            if len(found.log) - 1 == found.at:
                raise OSError(28, "No space left on device")
            return real(*given, **named)

        return call

    found = Calls()
    found.log = []
    for name in CALLS:
        monkeypatch.setattr(system, name, spy(name, getattr(system, name)))
    yield found


def test_files_are_flushed_before_the_row_is_committed(small: Any, tmp_path: Path, calls: Any) -> None:
    house = House(*small, name="small", folder=tmp_path)
    do = house.store.do
    house.store.do = lambda statement, values=(): (calls.log.append(statement), do(statement, values))[1]  # type: ignore[method-assign]
    s = st.Session(*small)
    s.append(TEXT * 6)
    calls.log.clear()
    keep(house, s)
    log = [x for x in calls.log if x in (*CALLS, "COMMIT")]
    count = sum(len(x) for x in files(tmp_path))
    assert log.count("replace") == count > 2 and log.count("fsync") == 2 * count
    assert log[-1] == "COMMIT" and log.count("COMMIT") == 1
    for i, name in enumerate(log):
        if name == "replace":  # the file is flushed before it has its name, and the name before anything else
            assert log[i - 1] == "fsync" and log[i + 1] == "fsync" and "write" in log[:i]


def test_any_call_of_the_system_may_fail(small: Any, tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE", 20_000)
    house = House(*small, name="small", folder=tmp_path)
    s = st.Session(*small)
    s.append(TEXT * 2)
    first = keep(house, s)
    before = files(tmp_path)
    failed = 0
    while True:
        more = s.fork()
        more.append(TEXT * 3)
        calls.log.clear()
        calls.at = failed
        try:
            id = keep(house, more)
            break
        except StorageError:
            failed += 1
            calls.at = -1
            assert files(tmp_path) == before
            equal(stored(house, first), s)
    calls.at = -1
    assert failed > 8
    equal(stored(house, id), more)
    equal(stored(house, first), s)


def test_threads_that_keep_and_drop_the_same_files(small: Any, tmp_path: Path) -> None:
    house, errors, left = House(*small, name="small", folder=tmp_path), [], []
    sessions = []
    for i in range(3):
        sessions.append(st.Session(*small))
        sessions[-1].append(TEXT * (i + 2))

    def work(seed: int) -> None:
        chance, mine, own = random.Random(seed), [], forks[seed]
        try:
            for _ in range(8):
                number = chance.randrange(3)
                mine.append((number, keep(house, own[number])))
                if len(mine) > 1 and chance.random() < 0.8:
                    house.marks.drop(mine.pop(chance.randrange(len(mine)))[1])
        except BaseException as error:
            errors.append(error)
        left.extend(mine)

    forks = [[s.fork() for s in sessions] for _ in range(4)]
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and left
    for number, id in left:
        equal(stored(house, id), sessions[number])
    for _, id in left:
        house.marks.drop(id)
    assert files(tmp_path) == (set(), set())
