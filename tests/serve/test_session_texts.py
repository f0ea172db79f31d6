"""Sessions of a server: uploads with progress, what is found in their text, tags, marks, and retries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import siltstone as st
from siltstone.errors import ServerError
from siltstone.serve.house import House
from tests.inference.test_attended import KEYS

TEXT = "The ship sailed on. Nobody knew — é — where the ship went.\r\n\x85The end.\n" * 40


@pytest.fixture(scope="module")
def stored(pair: Any, tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(*pair, name="demo", folder=tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def site(stored: House, serving: Callable) -> Iterator[str]:
    with serving(stored) as url:
        yield url


@pytest.fixture(scope="module")
def server(site: str) -> Any:
    return st.connect(site)


def kept(house: House) -> tuple[int, int]:
    """Texts that are kept, and references to them."""
    return tuple(house.store.do(f"SELECT count(*) FROM {table}")[0][0] for table in ("texts", "said"))  # type: ignore[return-value]


@pytest.mark.parametrize("way", ["file", "form", "text", "ids"])
def test_a_text_is_appended_with_progress(server: Any, stored: House, site: str, tmp_path: Path, way: str) -> None:
    s, shares = server.session(), []
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    if way == "file":
        s.append_file(tmp_path / "a.txt", shares.append)
    elif way == "form":
        got = httpx2.post(f"{site}/sessions/{s.id}/append?stream=true", files={"file": ("a.txt", TEXT.encode())})
        told = [json.loads(line[6:]) for line in got.text.splitlines() if line.startswith("data: {")]
        shares = [x["share"] for x in told if "share" in x]
        s.refresh()
        assert told[-1]["session"]["position"] == s.position == [x["read"] for x in told if "read" in x][-1]
    else:
        s.append(TEXT if way == "text" else stored.tokenizer.encode(TEXT), shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    near = st.Session(stored.model, stored.tokenizer)
    near.append(TEXT)
    assert abs(s.position - near.position) <= (way in ("file", "form"))  # parts of a file are encoded by themselves
    assert len(s.find("ship", 1000)) == 80 and not s.find("plane")
    assert [x["text"] for x in s.find("— é —\u0020where", 3)] == ["— é — where"] * 3
    one = s.find("Nobody")[1]
    assert one["before"].endswith("on. ") and one["after"].startswith(" knew — é")
    score = s.score("The ship")
    assert score == pytest.approx(near.score("The ship").tolist(), abs=1e-3)


def test_places_are_positions_of_tokens(server: Any, stored: House) -> None:
    s, tok = server.session(), stored.tokenizer
    for text in ("Once there was a sai", "lor", " of the sea."):
        s.append(text)
    ids = [id_ for text in ("Once there was a sai", "lor", " of the sea.") for id_ in tok.encode(text)]
    (one,) = s.find("sailor of")
    assert "sailor of" in tok.decode(ids[one["first"] : one["end"]])
    assert "sailor of" not in tok.decode(ids[one["first"] + 1 : one["end"]])
    assert "sailor of" not in tok.decode(ids[one["first"] : one["end"] - 1])
    text = "".join(s.generate(12, temperature=0))
    written = s.find(text[3:9])
    assert any(x["first"] >= len(ids) for x in written)


def test_the_text_follows_the_session(server: Any, stored: House) -> None:
    before = kept(stored)
    s = server.session()
    s.append("A long beginning.")
    twin, mark = s.fork(), s.snapshot()
    s.append(" A storm.")
    assert kept(stored) == (before[0] + 2, before[1] + 3)  # forks share the text
    assert s.find("storm") and not twin.find("storm") and twin.find("long beginning")
    s.rollback(mark)
    assert not s.find("storm") and s.find("long beginning") and s.marks == {mark: s.position}
    for x in (s, twin):
        x.delete()
    assert kept(stored) == before


def test_what_a_question_attends_to(pair: Any, serving: Callable) -> None:
    """Places are those of `Session.attended` after a question that chooses its blocks, with the text that stands there."""
    tok = st.ByteTokenizer()
    model = st.LM(st.LMConfig.from_dict(KEYS))
    text, question = "The ship sailed to the island, and the crew was glad. " * 3, "Where to?"
    near = st.Session(model, tok)
    near.append(text)
    near.asking = True
    near.append(question)
    wanted = near.attended()
    assert wanted
    with serving(House(model, tok, name="blocks")) as url:
        s = st.connect(url).session()
        s.append(text)
        got = s.attended(question, 100)
        assert [(x["first"], x["end"]) for x in got] == [x[:2] for x in wanted]
        assert [x["weight"] for x in got] == pytest.approx([x[2] for x in wanted], rel=1e-3)
        assert all(x["text"] == text[x["first"] : x["end"]] for x in got if x["end"] <= len(text))
        assert s.position == len(text) and len(s.attended(question, 1)) == 1


def test_what_cannot_be_appended_or_found(server: Any, site: str, tmp_path: Path) -> None:
    s = server.session()
    s.append("x")
    (tmp_path / "bad").write_bytes(b"good " * 4000 + b"\xff")
    with httpx2.Client(base_url=site) as raw:
        with pytest.raises(ServerError, match="UTF-8"):
            s.append_file(tmp_path / "bad")
        octets = {"Content-Type": "application/octet-stream"}
        for path, keys, param in (
            ("append", {"content": b"\xff", "headers": octets}, "file"),
            ("append?stream=x", {"content": b"x", "headers": octets}, "stream"),
            ("append", {"data": {"a": "b"}, "files": {}, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, "file"),
            ("append", {"files": [("a", ("a", b"x")), ("b", ("b", b"x"))]}, "file"),
            ("append", {"json": {"text": "x", "ids": [1]}}, "text"),
            ("find", {"json": {}}, "text"),
            ("find", {"json": {"text": "a", "question": "b"}}, "text"),
            ("find", {"json": {"question": "b"}}, "question"),
            ("find", {"json": {"text": "a", "limit": 0}}, "limit"),
            ("", {"json": {"ttl": -1}}, "ttl"),
        ):
            got = raw.post(f"/sessions/{s.id}/{path}".rstrip("/"), **keys)
            assert (got.status_code, got.json()["error"]["param"]) == (400, param), (path, got.text)
        assert raw.post(f"/sessions/{s.id}/append", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    assert s.refresh()["position"] == s.position == 1


def test_tags_and_times(server: Any) -> None:
    s = server.session({"of": "tags"})
    assert [x.id for x in server.sessions({"of": "tags"})] == [s.id] and not server.sessions({"of": "others"})
    s.update(tags={"of": "others", "a": "b:c"})
    assert [x.id for x in server.sessions({"of": "others", "a": "b:c"})] == [s.id] and not server.sessions({"of": "tags"})
    s.update(ttl=60)
    assert s.refresh()["ttl"] == 60 and s.tags == {"of": "others", "a": "b:c"} and server.open(s.id).position == 0
    with pytest.raises(ServerError):
        server.open("../x")


@pytest.mark.parametrize("stream", [False, True])
def test_a_retry_appends_once(server: Any, site: str, stored: House, stream: bool) -> None:
    s = server.session()
    s.append("Go.")
    with httpx2.Client(base_url=site, headers={"Idempotency-Key": f"k{stream}"}) as raw:
        for path, body in (("append", {"text": " on"}), ("generate", {"max_tokens": 4})):
            one, two = (raw.post(f"/sessions/{s.id}/{path}", json=body | {"stream": stream}) for _ in range(2))
            assert one.text == two.text and one.status_code == 200
            grown = 4 if path == "generate" else len(stored.tokenizer.encode(" on"))
            assert s.position + grown == s.refresh()["position"]
        count = len(server.sessions())
        made = {raw.post("/sessions", json={}).json()["id"] for _ in range(2)} | {
            raw.post(f"/sessions/{s.id}/fork", json={}).json()["id"] for _ in range(2)
        }
        assert len(made) == 2 and len(server.sessions()) == count + 2


def test_sessions_that_a_crash_left_behind_are_dropped(pair: Any, tmp_path: Path, serving: Callable) -> None:
    house = House(*pair, name="demo", folder=tmp_path)
    s = st.Session(*pair)
    s.append("Never acknowledged.")
    house.marks.keep("local", "session", "", s, True)
    house.store.close()
    with serving(House(*pair, name="demo", folder=tmp_path)):
        assert not list((tmp_path / "blobs").iterdir())
