"""Sessions as things, through `st.connect`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

import siltstone as st
from siltstone.errors import InputError, ServerError
from siltstone.serve.house import House, Limits
from siltstone.serve.keys import Keys
from tests.serve.test_doors import key_file

TEXT = "The ship sailed on, and nobody knew where it went."


@pytest.fixture(scope="module")
def stored(pair: Any, tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house with a store, that keeps two sessions in memory."""
    return House(*pair, name="demo", folder=tmp_path_factory.mktemp("store"), limits=Limits(sessions=2))


@pytest.fixture(scope="module")
def server(stored: House, serving: Callable) -> Iterator[Any]:
    with serving(stored) as url:
        yield st.connect(url)


def refused(call: Callable[[], Any]) -> int | None:
    with pytest.raises(ServerError) as error:
        call()
    return error.value.status


def blobs(house: House) -> int:
    assert house.folder is not None
    return len(list((house.folder / "blobs").iterdir()))


def test_a_session_does_what_a_local_one_does(server: Any, stored: House, tmp_path: Path) -> None:
    far, near = server.session(tags={"of": "test"}), st.Session(stored.model, stored.tokenizer)
    far.append(TEXT)
    near.append(TEXT)
    assert far.position == near.position and far.tags == {"of": "test"}
    assert far.score(" And so on.") == pytest.approx(near.score(" And so on.").tolist(), abs=1e-4)
    assert far.position == near.position
    assert "".join(far.generate(12, temperature=0)) == "".join(near.generate(12, temperature=0))
    assert "".join(far.generate(12, seed=3, top_p=0.9, stop=["xyz"])) == "".join(near.generate(12, seed=3, top_p=0.9))
    far.save(tmp_path / "far.silt")
    loaded = st.Session.load(tmp_path / "far.silt", stored.model, stored.tokenizer)
    assert loaded.position == near.position == far.position
    assert loaded.logits is not None and near.logits is not None
    assert torch.allclose(loaded.logits, near.logits, atol=1e-4)
    up = server.load(tmp_path / "far.silt")
    assert up.position == far.position and up.id != far.id
    assert "".join(up.generate(5, temperature=0)) == "".join(far.generate(5, temperature=0))
    assert math.isnan(server.session().score("x")[0])


def test_forks_and_marks(server: Any, stored: House) -> None:
    s = server.session()
    s.append(TEXT)
    before = blobs(stored)
    twin, mark = s.fork(), s.snapshot()
    assert blobs(stored) == before  # their file is written once
    at, texts = s.position, ["".join(x.generate(6, seed=1)) for x in (s, twin)]
    assert texts[0] == texts[1]
    later = s.snapshot()
    s.rollback(mark)
    assert s.position == at and "".join(s.generate(6, seed=1)) == texts[0]
    assert refused(lambda: s.rollback(later)) == 404 and refused(lambda: twin.rollback(mark)) == 404
    s.rollback(mark)
    s.rollback(mark)
    assert s.position == at
    s.delete()
    assert "".join(twin.generate(4, seed=1)) and refused(lambda: s.append("x")) == 404
    assert twin.id in [x.id for x in server.sessions()] and s.id not in [x.id for x in server.sessions()]
    twin.delete()
    assert blobs(stored) == before - 1 and stored.marks.parked


def test_what_is_wrong_changes_nothing(server: Any) -> None:
    s = server.session()
    for call in (
        lambda: s.append("\ud800"),
        lambda: s.append([99_999]),
        lambda: s.append([-1]),
        lambda: list(s.generate(5)),
        lambda: s.snapshot(),
        lambda: s.rollback("mark_none"),
        lambda: list(s.generate(5, temperature=-1.0)),
    ):
        assert refused(call) in (400, 404)
    assert server.sessions()[0].position == 0
    s.append([])
    assert s.position == 0
    with pytest.raises(InputError):
        st.connect("file:///etc")
    assert refused(lambda: st.connect("http://127.0.0.1:9").session()) is None


def test_one_writer_at_a_time(server: Any) -> None:
    s = server.session()
    s.append("Go.")
    pieces = s.generate(100_000)
    next(pieces)
    assert {refused(lambda: s.append("x")), refused(s.fork), refused(s.snapshot), refused(s.delete)} == {409}
    pieces.close()
    for _ in range(100):
        try:
            s.append("x")
            break
        except ServerError:
            threading.Event().wait(0.05)
    whole = server.session()
    for text in ("Go.", "x"):
        whole.append(text)
    assert s.position == whole.position  # without the text that was given up


def test_uploads_of_strangers(server: Any, stored: House, tmp_path: Path) -> None:
    s = st.Session(stored.model, stored.tokenizer)
    s.append(TEXT)
    s.save(tmp_path / "a.silt")
    good = (tmp_path / "a.silt").read_bytes()
    other = st.LM(st.presets.nano(stored.tokenizer.vocab_size))
    foreign = st.Session(other, stored.tokenizer)
    foreign.append("x")
    foreign.save(tmp_path / "b.silt")
    count = len(server.sessions())
    wrong = [b"", b"\0" * 100, good[:-1], good + b"x", good[:400] + b"\xff" + good[401:], (tmp_path / "b.silt").read_bytes()]
    for content in wrong:
        (tmp_path / "c.silt").write_bytes(content)
        with pytest.raises(ServerError) as error:
            server.load(tmp_path / "c.silt")
        assert error.value.status == 400 and "/" not in str(error.value)
    assert len(server.sessions()) == count


def test_sessions_of_another_key_do_not_exist(pair: Any, serving: Callable, tmp_path: Path) -> None:
    with serving(House(*pair, name="demo", keys=Keys.read(key_file(tmp_path, "alice", "bob")))) as url:
        alice, bob = st.connect(url, "alice"), st.connect(url, "bob")
        s = alice.session()
        s.append("A secret.")
        mark = s.snapshot()
        assert not bob.sessions() and refused(st.connect(url, "carol").sessions) == refused(st.connect(url).sessions) == 401
        own, theirs = bob.session(), httpx2.Client(base_url=url, headers={"Authorization": "Bearer bob"})
        assert refused(lambda: own.rollback(mark)) == 404
        with theirs:
            for verb, body in (("append", {"text": "x"}), ("score", {"text": "x"}), ("generate", {}), ("fork", {}), ("mark", {})):
                assert theirs.post(f"/sessions/{s.id}/{verb}", json=body).status_code == 404
            for path in ("", "/file", "/../../etc/passwd", "/%2e%2e/index.db"):
                assert theirs.get(f"/sessions/{s.id}{path}").status_code == 404
            assert theirs.delete(f"/sessions/{s.id}").status_code == 404
        assert s.fork().position == s.position


def test_sessions_outlive_the_process(pair: Any, serving: Callable, tmp_path: Path) -> None:
    with serving(House(*pair, name="demo", folder=tmp_path)) as url:
        s = st.connect(url).session()
        s.append(TEXT)
        mark = s.snapshot()
        wanted = "".join(s.generate(8, temperature=0))
    with serving(House(*pair, name="demo", folder=tmp_path)) as url:
        (again,) = st.connect(url).sessions()
        assert (again.id, again.position) == (s.id, s.position)
        again.rollback(mark)
        assert "".join(again.generate(8, temperature=0)) == wanted
    with serving(House(*pair, name="demo", limits=Limits(sessions=1))) as url:  # without a folder
        one, two = (st.connect(url).session() for _ in range(2))
        one.append("One.")
        two.append("Two.")
        assert refused(lambda: one.append("More.")) == 410
