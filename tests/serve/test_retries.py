"""A request that is sent again appends nothing twice; a request that fails appends nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

import siltstone as st
from siltstone.errors import ServerError, StorageError
from siltstone.serve.house import House, Limits

KEY, COUNT = {"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}
FIRST: dict[str, str] = {"x-stainless-retry-count": "0"}


def body(talk: str, **more: Any) -> dict[str, Any]:
    return {"model": "demo", "conversation": talk, "input": "Once.", "max_output_tokens": 4} | more


@pytest.mark.parametrize(("first", "then", "stream"), [(KEY, KEY, True), (FIRST, COUNT, False)], ids=["key", "count"])
def test_after_a_restart_too(
    pair: Any, serving: Callable, connecting: Callable, tmp_path: Path, first: dict, then: dict, stream: bool
) -> None:
    """The answer is committed together with what it appends."""
    with serving(House(*pair, name="demo", folder=tmp_path)) as url, connecting(url) as client:
        talk = client.conversations.create().id
        one = httpx2.post(f"{url}/v1/responses", json=body(talk, stream=stream), headers=first)
        items = httpx2.post(
            f"{url}/v1/conversations/{talk}/items", json={"items": [{"role": "user", "content": "x"}]}, headers=KEY
        )
    house = House(*pair, name="demo", folder=tmp_path)
    with serving(house) as url, connecting(url) as client:
        two = httpx2.post(f"{url}/v1/responses", json=body(talk, stream=stream), headers=then)
        again = httpx2.post(
            f"{url}/v1/conversations/{talk}/items", json={"items": [{"role": "user", "content": "x"}]}, headers=KEY
        )
        assert one.text == two.text and one.status_code == 200 and again.json() == items.json()
        assert len(list(client.conversations.items.list(talk))) == 3
        now = time.time()
        house.store.clock = lambda: now + 601  # ten minutes later it is another request
        assert httpx2.post(f"{url}/v1/responses", json=body(talk, stream=stream), headers=then).text != one.text
        assert len(list(client.conversations.items.list(talk))) == 5
        house.tidy()
        assert not [x for x in house.store.every("try") if x.body["answer"] == items.json()]


@pytest.mark.parametrize("stream", [False, True])
def test_while_the_first_one_runs(pair: Any, serving: Callable, connecting: Callable, stream: bool) -> None:
    """Both get the one answer, unless the client of the first one leaves: then the retry makes its own."""
    house, got = House(*pair, name="demo", limits=Limits(slots=1)), []
    with serving(house) as url, connecting(url) as client:
        talk = client.conversations.create().id
        with httpx2.Client(base_url=url, timeout=20, headers=KEY) as raw:
            long = body(talk, max_output_tokens=60, stream=stream)
            threads = [threading.Thread(target=lambda: got.append(raw.post("/v1/responses", json=long).text)) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
        assert len({*got}) == 1 and len(got) == 3 and len(list(client.conversations.items.list(talk))) == 2
        with pytest.raises(httpx2.ReadTimeout):
            with httpx2.stream(
                "POST", f"{url}/v1/responses", json=body(talk, max_output_tokens=50_000), headers=KEY, timeout=0.3
            ):
                pass
        until = time.monotonic() + 10
        while house.tries.running or house.engine.gate.free == 0:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert len(list(client.conversations.items.list(talk))) == 2


def test_other_requests_are_no_retries(client: openai.OpenAI) -> None:
    talk = client.conversations.create().id
    keys: dict[str, Any] = {"model": "demo", "conversation": talk, "max_output_tokens": 2}
    ids = {client.responses.create(**keys, input="a", extra_headers=KEY).id for _ in range(2)}
    ids |= {client.responses.create(**keys, input="b", extra_headers=KEY).id}
    ids |= {client.responses.create(**keys, input="a", extra_headers={"Idempotency-Key": "other"}).id}
    ids |= {client.responses.create(**keys, input="a").id for _ in range(2)}
    for strange in ("", "x", "-1", "²"):
        try:
            ids |= {client.responses.create(**keys, input="a", extra_headers={"x-stainless-retry-count": strange}).id}
        except UnicodeEncodeError:
            continue
    assert len(ids) == 8 and len(list(client.conversations.items.list(talk))) == 16


def test_a_session_that_cannot_be_stored_stays(
    pair: Any, serving: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any) -> None:
        raise StorageError("no space")

    house = House(*pair, name="demo", folder=tmp_path)
    (tmp_path / "a").write_text("More.", "utf-8")
    with serving(house) as url:
        s = st.connect(url).session()
        s.append("Once.")
        calls = (lambda: s.append("x"), lambda: list(s.generate(3)), lambda: s.append_file(tmp_path / "a"))
        for call in calls:
            marks, at = house.store.counts, s.position
            for fails in ("write", "add", "put"):
                with monkeypatch.context() as patch:
                    patch.setattr(house.store, fails, fail)
                    with pytest.raises(ServerError) as error:
                        call()
                assert (error.value.status, error.value.code) == (503, "storage_failed")
                assert house.store.counts == marks and s.refresh()["position"] == at and not s.find("More")
            call()
            assert s.position > at
