"""Chat completions and completions, with an unmodified client."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

import siltstone as st
from siltstone.serve.house import House

SAY: list[Any] = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Who wrote the letter — é?"}]


def chat(client: openai.OpenAI, messages: list[Any], **keys: Any) -> Any:
    return client.chat.completions.create(model="demo", messages=messages, **({"max_tokens": 12, "temperature": 0} | keys))


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"] and client.models.retrieve("demo").id == "demo"


def test_an_answer_is_what_a_session_writes(client: openai.OpenAI, house: House) -> None:
    got = chat(client, SAY)
    s = st.Session(house.model, house.tokenizer)
    s.append("Answer briefly.\nUser: Who wrote the letter — é?\n")
    s.append("Assistant:")
    assert got.usage.prompt_tokens == s.position
    assert got.choices[0].message.content == "".join(s.generate(12, temperature=0))
    assert (got.choices[0].finish_reason, got.usage.completion_tokens) == ("length", 12)
    assert got.usage.total_tokens == s.position


def test_a_stream_has_the_same_text_and_the_usage_last(client: openai.OpenAI) -> None:
    whole = chat(client, SAY)
    chunks = list(chat(client, SAY, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks[:-1])
    assert text == whole.choices[0].message.content and chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens == 12
    assert all(c.usage is None for c in chunks[:-1]) and len({c.id for c in chunks}) == 1


def test_choices_are_forks_with_seeds_of_their_own(client: openai.OpenAI) -> None:
    one, two = (chat(client, SAY, n=3, seed=7, temperature=1.0) for _ in range(2))
    texts = [c.message.content for c in one.choices]
    assert texts == [c.message.content for c in two.choices] and len({*texts}) == 3
    alone = chat(client, SAY, seed=8, temperature=1.0)
    assert alone.choices[0].message.content == texts[1]
    assert one.usage.completion_tokens == 36


def test_a_stop_text_ends_the_answer(client: openai.OpenAI) -> None:
    whole = chat(client, SAY, max_tokens=30).choices[0].message.content
    stop = whole[10:14]
    got = chat(client, SAY, max_tokens=30, stop=[stop, "never"]).choices[0]
    assert got.message.content == whole[: whole.index(stop)] and got.finish_reason == "stop"


def test_completions_go_on_from_texts_and_from_ids(client: openai.OpenAI, house: House) -> None:
    s = st.Session(house.model, house.tokenizer)
    s.append("The old man")
    wanted = "".join(s.generate(8, temperature=0))
    keys: dict[str, Any] = {"model": "demo", "max_tokens": 8, "temperature": 0}
    ids = house.tokenizer.encode("The old man")
    for prompt in ("The old man", ids, [ids], ["The old man", "The old man"]):
        got = client.completions.create(prompt=prompt, **keys)
        assert {c.text for c in got.choices} == {wanted}
    assert [c.index for c in got.choices] == [0, 1]
    echoed = client.completions.create(prompt="The old man", echo=True, **keys)
    assert echoed.choices[0].text == "The old man" + wanted
    streamed = list(client.completions.create(prompt="The old man", stream=True, **keys))
    assert "".join(c.choices[0].text for c in streamed) == wanted and streamed[-1].choices[0].finish_reason == "length"


def test_stored_completions(client: openai.OpenAI) -> None:
    got = chat(client, SAY, store=True, metadata={"of": "test"})
    again = client.chat.completions.retrieve(got.id)
    assert again.choices[0].message.content == got.choices[0].message.content and again.metadata == {"of": "test"}
    assert [m.content for m in client.chat.completions.messages.list(got.id)] == [m["content"] for m in SAY]
    assert got.id in [c.id for c in client.chat.completions.list()]
    client.chat.completions.delete(got.id)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(got.id)


BAD = {
    "messages": [{}, {"messages": []}, {"messages": "x"}],
    "messages[0].role": [{"messages": [{"role": "tool", "content": "x"}]}, {"messages": [{"content": "x"}]}],
    "messages[0].content": [{"messages": [{"role": "user", "content": "\ud800"}]}],
    "messages[0].tool_calls": [{"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}],
    "temperature": [{"temperature": 3}, {"temperature": "1"}, {"temperature": True}],
    "top_p": [{"top_p": 0}],
    "max_tokens": [{"max_tokens": 0}, {"max_tokens": 1.5}, {"max_tokens": 2**70}, {"max_tokens": 1, "max_completion_tokens": 1}],
    "seed": [{"seed": 2**64}],
    "n": [{"n": 0}, {"n": 9}],
    "stop": [{"stop": [""]}, {"stop": ["a"] * 5}],
    "tools": [{"tools": [{"type": "function", "function": {"name": "f"}}]}],
    "response_format": [{"response_format": {"type": "json_object"}}],
    "logprobs": [{"logprobs": 1}, {"logprobs": 0}],
    "stream_options": [{"stream_options": {"include_usage": True}}],
    "colour": [{"colour": 1}],
}


@pytest.mark.parametrize(("param", "keys"), [(param, keys) for param, many in BAD.items() for keys in many])
def test_a_bad_field_is_named(raw: httpx2.Client, param: str, keys: dict[str, Any]) -> None:
    body = {"model": "demo"} | ({"messages": SAY} if param.partition("[")[0] != "messages" else {}) | keys
    got = raw.post("/v1/chat/completions", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"] and error["code"]
    assert (error["param"] or "").startswith(param)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b"\xff", b'{"a":NaN}', b"[" * 100_000, b'{"model": 1' + b"0" * 5000 + b"}"]
)
def test_a_body_that_is_no_object(raw: httpx2.Client, body: bytes) -> None:
    for path in ("chat/completions", "completions"):
        got = raw.post(f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
        assert got.status_code == 400 and got.json()["error"]["type"] == "invalid_request_error"


def test_other_errors_have_bodies_too(raw: httpx2.Client) -> None:
    for got, status in (
        (raw.post("/v1/chat/completions", content=b"x", headers={"Content-Type": "text/plain"}), 415),
        (raw.post("/v1/chat/completions", json={"model": "other", "messages": SAY}), 404),
        (raw.post("/v1/completions", content=b" " * (9 << 20), headers={"Content-Type": "application/json"}), 413),
        (raw.get("/v1/nothing"), 404),
        (raw.put("/v1/models"), 405),
        (raw.get("/health", headers={"Host": "example.com"}), 421),
        (raw.get("/health", headers={"Origin": "http://example.com"}), 403),
    ):
        assert got.status_code == status and got.json()["error"]["message"]
    assert raw.get("/health").status_code == raw.get("/ready").status_code == 200
