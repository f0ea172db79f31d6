"""Probabilities of tokens and biases, with an unmodified client, against a session that reads the same ids."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest
import torch

import siltstone as st
from siltstone.serve.house import House
from siltstone.serve.logprobs import spelled

SAY: list[Any] = [{"role": "user", "content": "Who sailed — é?"}]
KEYS: dict[str, Any] = {"model": "demo", "temperature": 0}


def read(house: House, text: str) -> st.Session:
    s = st.Session(house.model, house.tokenizer)
    s.append(text)
    return s


def row(session: st.Session) -> Any:
    assert session.logits is not None
    return torch.log_softmax(session.logits.float(), -1)


def test_a_chat_has_the_probabilities_that_a_session_has(client: openai.OpenAI, house: House) -> None:
    got = client.chat.completions.create(messages=SAY, max_tokens=9, logprobs=True, top_logprobs=3, **KEYS).choices[0]
    assert got.logprobs and got.logprobs.content
    s = read(house, "User: Who sailed — é?\n")
    s.append("Assistant:")
    for one in got.logprobs.content:
        values, ids = row(s).topk(3)
        assert [x.bytes for x in one.top_logprobs] == [list(house.tokenizer.token_bytes(int(i))) for i in ids]
        assert [x.logprob for x in one.top_logprobs] == pytest.approx(values.tolist(), abs=1e-3)
        assert one.logprob == pytest.approx(float(values[0]), abs=1e-3) and one.bytes == one.top_logprobs[0].bytes
        s.append([int(ids[0])])
    assert b"".join(bytes(x.bytes or ()) for x in got.logprobs.content).decode("utf-8", "replace") == got.message.content
    plain = client.chat.completions.create(messages=SAY, max_tokens=9, **KEYS).choices[0]
    assert plain.message.content == got.message.content and plain.logprobs is None
    bare = client.chat.completions.create(messages=SAY, max_tokens=9, logprobs=True, **KEYS).choices[0]
    assert bare.logprobs and bare.logprobs.content and not bare.logprobs.content[0].top_logprobs


@pytest.mark.parametrize("stop", [None, True])
def test_a_stream_gives_each_token_once(client: openai.OpenAI, stop: Any) -> None:
    keys = KEYS | {"messages": SAY, "max_tokens": 20, "logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**keys).choices[0]
    if stop:
        keys["stop"] = whole.message.content[8:11]
        whole = client.chat.completions.create(**keys).choices[0]
        assert whole.logprobs and len(whole.logprobs.content or ()) < 20 and whole.finish_reason == "stop"
    found: list[Any] = []
    for chunk in client.chat.completions.create(**keys, stream=True):
        if chunk.choices[0].logprobs:
            found += chunk.choices[0].logprobs.content or ()
    assert whole.logprobs and [x.token for x in found] == [x.token for x in whole.logprobs.content or ()]
    text = "".join(x.token for x in found if not x.token.startswith("bytes:"))
    assert whole.message.content and text.startswith(whole.message.content[:6])


def test_echo_scores_a_prompt(client: openai.OpenAI, house: House) -> None:
    """As harnesses of evaluations ask: token ids, echo, one token or none."""
    text = "The old man and the sea — é"
    ids = house.tokenizer.encode(text)
    first, *others = st.Session(house.model, house.tokenizer).score(ids).tolist()
    for prompt, most in ((text, 1), (ids, 1), (ids, 0), (text, 0)):
        got = client.completions.create(prompt=prompt, echo=True, logprobs=2, max_tokens=most, **KEYS).choices[0]
        likely = got.logprobs
        assert likely and likely.tokens and likely.token_logprobs and likely.top_logprobs and likely.text_offset
        assert len(likely.tokens) == len(likely.token_logprobs) == len(likely.text_offset) == len(ids) + most
        assert first != first and likely.token_logprobs[0] is None and likely.top_logprobs[0] is None
        assert likely.token_logprobs[1 : len(ids)] == pytest.approx(others, abs=1e-3)
        assert likely.tokens[: len(ids)] == [spelled(house.tokenizer.token_bytes(i)) for i in ids]
        for token, score, tops in zip(likely.tokens[1:], likely.token_logprobs[1:], likely.top_logprobs[1:], strict=True):
            assert 2 <= len(tops) <= 3 and tops[token] == pytest.approx(score, abs=1e-5) and score <= max(tops.values()) + 1e-5
        for at, token in zip(likely.text_offset, likely.tokens, strict=True):
            assert token.startswith("bytes:") or got.text[at:].startswith(token)
    again = client.completions.create(prompt=text, echo=True, logprobs=2, max_tokens=0, **KEYS)
    assert again.choices[0].text == text and again.usage and again.usage.completion_tokens == 0
    assert again.choices[0].logprobs == got.logprobs
    streamed = list(client.completions.create(prompt=text, echo=True, logprobs=0, max_tokens=3, stream=True, **KEYS))
    assert sum(len(c.choices[0].logprobs.tokens or ()) for c in streamed if c.choices[0].logprobs) == len(ids) + 3


def test_responses_include_probabilities(client: openai.OpenAI) -> None:
    keys: dict[str, Any] = KEYS | {"input": "Who sailed?", "max_output_tokens": 6}
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    whole: Any = client.responses.create(**keys, **asked).output[0]
    likely = whole.content[0].logprobs
    assert len(likely) == 6 and all(len(x.top_logprobs) == 2 for x in likely)
    told = list(client.responses.create(**keys, **asked, stream=True))
    deltas = [x.token for e in told if e.type == "response.output_text.delta" for x in e.logprobs]
    last: Any = told[-1]
    assert [x.token for x in last.response.output[0].content[0].logprobs] == [x.token for x in likely]
    assert deltas == [x.token for x in likely][: len(deltas)] and len(deltas) >= 5
    assert not client.responses.create(**keys).output[0].content[0].logprobs  # type: ignore[union-attr]


def test_a_bias_moves_the_choice(client: openai.OpenAI, house: House) -> None:
    wanted = house.tokenizer.encode(" the")[0]
    for make in (
        lambda bias: (
            client.chat.completions.create(messages=SAY, max_tokens=3, logit_bias=bias, **KEYS).choices[0].message.content
        ),
        lambda bias: client.completions.create(prompt="It was", max_tokens=3, logit_bias=bias, **KEYS).choices[0].text,
    ):
        assert make({str(wanted): 100}) == " the the the" != make({})
        first = house.tokenizer.encode(make({}))[0]
        assert house.tokenizer.encode(make({str(first): -100}))[0] != first
    ends = house.tokenizer.eos_id
    if ends is not None:
        got = client.completions.create(prompt="It was", max_tokens=9, logit_bias={str(ends): 100}, **KEYS)
        assert got.choices[0].text == "" and got.choices[0].finish_reason == "stop"


BAD: list[tuple[str, str, Any]] = [
    ("chat/completions", "top_logprobs", {"top_logprobs": 2}),
    ("chat/completions", "top_logprobs", {"logprobs": True, "top_logprobs": 21}),
    ("chat/completions", "logprobs", {"logprobs": 1}),
    ("chat/completions", "logit_bias", {"logit_bias": {"1": 101}}),
    ("chat/completions", "logit_bias", {"logit_bias": {"999999": 1}}),
    ("chat/completions", "logit_bias", {"logit_bias": {"-1": 1}}),
    ("completions", "logit_bias", {"logit_bias": {"x": 1}}),
    ("completions", "logprobs", {"logprobs": True}),
    ("completions", "max_tokens", {"max_tokens": 0}),
    ("responses", "include", {"include": ["file_search_call.results"]}),
    ("responses", "top_logprobs", {"top_logprobs": 3}),
]


@pytest.mark.parametrize(("path", "param", "keys"), BAD)
def test_what_is_wrong_is_named(raw: httpx2.Client, path: str, param: str, keys: dict[str, Any]) -> None:
    base = {"chat/completions": {"messages": SAY}, "completions": {"prompt": "x"}, "responses": {"input": "x"}}[path]
    body = json.dumps({"model": "demo"} | base | keys)
    got = raw.post(f"/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    assert got.status_code == 400 and got.json()["error"]["param"].startswith(param)
