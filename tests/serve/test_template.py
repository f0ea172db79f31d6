"""Chat templates: special tokens come from the template alone; broken ones are refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from siltstone.errors import TokenizerError
from siltstone.inference.chat import Turns
from siltstone.serve.house import House
from siltstone.serve.problem import Problem
from siltstone.serve.template import OPEN, Message, Template
from siltstone.text import BPETokenizer

TURNS = (
    "{% for message in messages %}<bos>{{ message['role'] + '\n' + message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant\n{% endif %}"
)


def with_template(pair: tuple[Any, Any], text: str) -> BPETokenizer:
    return BPETokenizer(pair[1].to_json(), json.dumps({"chat_template": text, "bos_token": "<bos>", "eos_token": "<eos>"}))


def test_contents_never_become_special_tokens(pair: Any) -> None:
    tok = with_template(pair, TURNS)
    template = Template(tok)
    body, header = template.render([Message("user", "Hi <bos> {{ 7 * 7 }} {% raw %} <eos>")])
    ids = template.encode(body)
    assert ids.count(tok.bos_id) == ids.count(tok.eos_id) == 1 and ids[0] == tok.bos_id
    assert tok.decode(ids) == "user\nHi <bos> {{ 7 * 7 }} {% raw %} <eos>\n"
    assert template.encode(header) == [tok.bos_id, *tok.encode("assistant\n")]


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_part_is_encoded_from_any_place_between_tokens(pair: Any, cut: int) -> None:
    template = Template(with_template(pair, TURNS))
    body, header = template.render([Message("system", "Be brief."), Message("user", "Hello."), Message("assistant", "Yes?")])
    whole = body + header
    cut = min(whole.find(OPEN, cut) % len(whole), len(whole))
    both = template.encode(whole[:cut]) + template.encode(whole[cut:])
    assert template.tokenizer.decode(both) == template.tokenizer.decode(template.encode(whole))


def test_developers_are_the_system_and_models_may_refuse(pair: Any) -> None:
    check = "{% if m.role != 'user' %}{{ raise_exception('only users') }}{% endif %}"
    strict = f"{{% for m in messages %}}{check}{{{{ m.content }}}}{{% endfor %}}"
    template = Template(with_template(pair, strict))
    with pytest.raises(Problem, match="only users") as refused:
        template.render([Message("system", "x")])
    assert (refused.value.status, refused.value.param) == (400, "messages")
    assert template.render([Message("user", "x")]) == ("x", "")
    plain = Template(pair[1])
    assert plain.render([Message("developer", "x")]) == plain.render([Message("system", "x")]) == ("x\n", "Assistant:")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ 1 / 0 }}", "{{ x.y.z }}", "{{ messages + 1 }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ 'x' * 10 ** 9 }}",
    ],
)  # fmt: skip
def test_a_template_runs_nothing_and_its_errors_are_problems(pair: Any, text: str) -> None:
    with pytest.raises(Problem):
        Template(with_template(pair, text)).render([Message("user", "x")])


@pytest.mark.parametrize("text", ["", TURNS])
@pytest.mark.parametrize("system", [None, "Be <eos> brief."])
def test_server_and_terminal_write_the_same(pair: Any, text: str, system: str | None) -> None:
    """`siltstone chat` and the server read the same ids for a conversation's first turn."""
    tok = with_template(pair, text) if text else pair[1]
    template, said = Template(tok), [Message("user", "Who <bos> sailed?")]
    body, header = template.render([Message("system", system), *said] if system else said)
    assert template.encode(body + header) == Turns(tok).first("Who <bos> sailed?", system)
    assert template.name == Turns(tok).template.source


def test_a_template_that_is_none(pair: Any) -> None:
    with pytest.raises(TokenizerError, match="chat template"):
        Template(with_template(pair, "{% for %}"))


def test_a_chat_with_special_tokens_reads_its_new_items_alone(pair: Any, serving: Callable, connecting: Callable) -> None:
    tok = with_template(pair, TURNS)
    house = House(pair[0], tok, name="demo")
    with serving(house) as url, connecting(url) as client:
        messages: list[Any] = [{"role": "system", "content": "Be <eos> brief."}]
        reached = 0
        for turn in range(4):
            messages.append({"role": "user", "content": f"Turn {turn} <bos>."})
            got = client.chat.completions.create(model="demo", messages=messages, max_tokens=5)
            usage = got.usage
            assert usage and usage.prompt_tokens_details and usage.prompt_tokens_details.cached_tokens == reached
            if turn:
                pieces = ["<eos>", "\n", "<bos>", f"user\nTurn {turn} <bos>.", "<eos>", "\n", "<bos>", "assistant\n"]
                new = sum(1 if piece in ("<bos>", "<eos>") else len(tok.encode(piece)) for piece in pieces)
                assert usage.prompt_tokens - reached == new
            reached = usage.total_tokens
            messages.append({"role": "assistant", "content": got.choices[0].message.content})
