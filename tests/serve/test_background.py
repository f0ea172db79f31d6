"""Background responses: retrieved, followed and cancelled while they run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from siltstone.serve.house import House, Limits

ASK: dict[str, Any] = {"model": "demo", "background": True, "temperature": 0}


def ended(client: openai.OpenAI, id: str, soon: float = 20) -> Any:
    until = time.monotonic() + soon
    while (got := client.responses.retrieve(id)).status in ("queued", "in_progress"):
        assert time.monotonic() < until
        time.sleep(0.01)
    return got


def test_a_background_response_is_that_of_a_waiting_client(client: openai.OpenAI) -> None:
    begun = client.responses.create(**ASK, input="Of the sea.", max_output_tokens=8)
    assert begun.status == "queued" and begun.background and not begun.output
    assert [x.content[0].text for x in client.responses.input_items.list(begun.id)] == ["Of the sea."]  # type: ignore[union-attr]
    got = ended(client, begun.id)
    whole = client.responses.create(**ASK | {"background": False}, input="Of the sea.", max_output_tokens=8)
    assert (got.status, got.output_text) == ("incomplete", whole.output_text) and got.usage.output_tokens == 8
    more = client.responses.create(model="demo", input="And?", previous_response_id=begun.id, max_output_tokens=4)
    assert more.usage and more.usage.input_tokens_details.cached_tokens == got.usage.total_tokens
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(**ASK, input="x", store=False)
    assert error.value.param == "background"


def test_its_stream_is_followed_from_any_event(client: openai.OpenAI) -> None:
    stream = client.responses.create(**ASK, input="Of streams.", max_output_tokens=40, stream=True)
    seen = [next(iter(stream)) for _ in range(3)]
    id = seen[0].response.id  # type: ignore[union-attr]
    stream.close()  # it goes on without a client
    later = list(client.responses.retrieve(id, stream=True, starting_after=2))
    assert [e.sequence_number for e in [*seen, *later]] == list(range(len(later) + 3))
    kinds = [e.type.removeprefix("response.") for e in [*seen, *later]]
    assert kinds[:4] == ["created", "queued", "in_progress", "output_item.added"] and kinds[-1] == "incomplete"
    text = "".join(e.delta for e in later if e.type == "response.output_text.delta")
    assert client.responses.retrieve(id).output_text == text
    again = list(client.responses.retrieve(id, stream=True))
    assert [e.to_dict() for e in again[3:]] == [e.to_dict() for e in later]  # when it has ended too
    assert not list(client.responses.retrieve(id, stream=True, starting_after=len(again)))
    plain = client.responses.create(model="demo", input="x", max_output_tokens=2)
    with pytest.raises(openai.BadRequestError):
        client.responses.retrieve(plain.id, stream=True)
    for query in ({"stream": "x"}, {"stream": "true", "starting_after": "-1"}, {"starting_after": "1"}):
        with pytest.raises(openai.BadRequestError):
            client.responses.retrieve(id, extra_query=query)


def test_cancelled(client: openai.OpenAI, house: House) -> None:
    talk = client.conversations.create()
    begun = client.responses.create(**ASK, input="For long.", max_output_tokens=100_000, conversation=talk.id)
    while client.responses.retrieve(begun.id).status == "queued":
        time.sleep(0.01)
    with pytest.raises(openai.ConflictError):
        client.responses.create(model="demo", input="x", conversation=talk.id)
    got = client.responses.cancel(begun.id)
    assert got.status == client.responses.retrieve(begun.id).status == client.responses.cancel(begun.id).status == "cancelled"
    assert not list(client.conversations.items.list(talk.id)) and house.engine.gate.free == house.limits.slots
    client.responses.create(model="demo", input="x", conversation=talk.id, max_output_tokens=2)
    with pytest.raises(openai.BadRequestError, match="cancelled"):
        client.responses.create(model="demo", input="x", previous_response_id=begun.id)
    other = client.responses.create(**ASK, input="For long.", max_output_tokens=100_000)
    client.responses.delete(other.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(other.id)
    assert house.engine.gate.free == house.limits.slots


def test_a_retry_is_the_same_response(client: openai.OpenAI) -> None:
    one, two = (client.responses.create(**ASK, input="x", extra_headers={"Idempotency-Key": "b"}) for _ in range(2))
    assert one.id == two.id
    client.responses.cancel(one.id)


def test_what_a_process_leaves_has_failed(pair: Any, serving: Callable, connecting: Callable, tmp_path: Path) -> None:
    with serving(House(*pair, name="demo", folder=tmp_path)) as url, connecting(url) as client:
        done = client.responses.create(**ASK, input="x", max_output_tokens=2)
        ended(client, done.id)
        events = [e.to_dict() for e in client.responses.retrieve(done.id, stream=True)]
    house = House(*pair, name="demo", folder=tmp_path)
    kept = house.store.get("response", "local", done.id) or {}
    house.store.put("response", "local", done.id + "x", kept | {"object": kept["object"] | {"id": "x", "status": "in_progress"}})
    house.store.close()
    house = House(*pair, name="demo", folder=tmp_path, limits=Limits(queue=0, slots=1))
    with serving(house) as url, connecting(url) as client:
        lost = client.responses.retrieve(done.id + "x")
        assert (lost.status, lost.error.code) == ("failed", "server_stopped")  # type: ignore[union-attr]
        assert [e.to_dict() for e in client.responses.retrieve(done.id, stream=True)] == events
        full = client.responses.create(**ASK, input="x", max_output_tokens=100_000)
        with pytest.raises(openai.RateLimitError):
            client.responses.create(**ASK, input="y")
        client.responses.cancel(full.id)
        house.limits = replace(house.limits, deadline=2.0)
        late = client.responses.create(**ASK, input="x", max_output_tokens=100_000)
        house.limits = replace(house.limits, deadline=60)
        told = list(client.responses.retrieve(late.id, stream=True))
        assert told[-1].type == "response.failed" and ended(client, late.id).error.code == "deadline"
        assert house.engine.gate.free == 1
