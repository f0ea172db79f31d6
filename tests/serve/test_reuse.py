"""What was read is not read again: plain chats, responses and conversations, also when the limits of memory are small."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

import siltstone as st
from siltstone.serve.house import House, Limits
from siltstone.serve.marks import chain

DOCUMENT = "\n".join(f"Line {i} of the document says that the ship sailed on day {i * 7}." for i in range(60))


def ask(client: openai.OpenAI, messages: list[Any], **keys: Any) -> tuple[str, int, int]:
    """The answer, the tokens that were read, and those that were reused."""
    got = client.chat.completions.create(model="demo", messages=messages, **({"max_tokens": 8, "temperature": 0.8} | keys))
    assert got.usage is not None and got.usage.prompt_tokens_details is not None
    cached = got.usage.prompt_tokens_details.cached_tokens or 0
    return got.choices[0].message.content or "", got.usage.prompt_tokens - cached, cached


def fresh(house: House, text: str) -> int:
    return len(house.template.encode(text))


def test_every_turn_of_a_plain_chat_reads_its_new_items_alone(client: openai.OpenAI, house: House) -> None:
    messages: list[Any] = [{"role": "system", "content": DOCUMENT}]
    reached = 0
    for turn in range(12):
        messages.append({"role": "user", "content": f"Question {turn}: and then?"})
        before = house.marks.model
        said, read, cached = ask(client, messages)
        wanted = f"Question {turn}: and then?\n"
        new = fresh(house, f"\nUser: {wanted}") + fresh(house, "Assistant:")
        assert before is house.model and (turn == 0 or (read, cached) == (new, reached))
        reached = cached + read + 8
        messages.append({"role": "assistant", "content": said})


def test_a_chat_that_is_changed_goes_on_from_what_is_the_same(client: openai.OpenAI, house: House) -> None:
    first: list[Any] = [{"role": "system", "content": "Of change."}, {"role": "user", "content": "One."}]
    said, read, cached = ask(client, first)
    assert not cached
    again = ask(client, first)
    assert again[1] == fresh(house, "Assistant:")  # the messages were read already
    for change in ({"content": "Of chance."}, {"role": "user"}):
        assert not ask(client, [first[0] | change, first[1]])[2]
    other = [*first, {"role": "assistant", "content": said + "!"}, {"role": "user", "content": "Two."}]
    assert ask(client, other)[2] == read - fresh(house, "Assistant:")
    both = [*first, {"role": "assistant", "content": said}, {"role": "user", "content": "Two."}]
    assert ask(client, both)[2] == read + 8


def test_messages_with_the_same_text_are_other_items(client: openai.OpenAI, house: House) -> None:
    """A message that looks like two is found by other items."""
    two: list[Any] = [{"role": "user", "content": "A."}, {"role": "user", "content": "B."}]
    ask(client, two)
    text, header = house.template.render([])
    assert not text and header == "Assistant:"
    assert not ask(client, [{"role": "user", "content": "A.\nUser: B."}])[2]


def test_texts_go_on_too(client: openai.OpenAI, house: House) -> None:
    text = "In the beginning of the long story there was a man."
    keys: dict[str, Any] = {"model": "demo", "max_tokens": 5, "temperature": 0}
    one = client.completions.create(prompt=text, **keys)
    two = client.completions.create(prompt=text + one.choices[0].text + " He said", **keys)
    assert one.usage and two.usage and two.usage.prompt_tokens_details
    assert two.usage.prompt_tokens_details.cached_tokens == one.usage.total_tokens
    assert two.usage.prompt_tokens == one.usage.total_tokens + fresh(house, " He said")


def test_reuse_changes_no_text(client: openai.OpenAI, pair: Any, serving: Callable, connecting: Callable) -> None:
    """A server that forgets everything at once gives the same greedy texts."""
    house = House(*pair, name="demo", limits=Limits(sessions=1, memory=1))
    with serving(house) as url, connecting(url) as other:
        messages: list[Any] = [{"role": "system", "content": "Of equality."}]
        for turn in range(4):
            messages.append({"role": "user", "content": f"Turn {turn}."})
            said = [ask(c, messages, temperature=0)[0] for c in (client, other)]
            assert said[0] == said[1]
            messages.append({"role": "assistant", "content": said[0]})
            assert len(house.marks) == 1
        assert house.marks.parked >= 6


def test_responses(client: openai.OpenAI, house: House) -> None:
    keys: dict[str, Any] = {"model": "demo", "max_output_tokens": 8, "temperature": 0}
    one = client.responses.create(input="What of the sea?", instructions="Of responses.", **keys)
    assert one.output_text and one.usage and one.status == "incomplete"
    assert one.incomplete_details and one.incomplete_details.reason == "max_output_tokens"
    nexts = [
        client.responses.create(input=word, instructions="Of responses.", previous_response_id=one.id, **keys)
        for word in ("And the ship?", "And the land?", "And the ship?")
    ]
    for got in nexts[:2]:  # both branch from the first
        assert got.usage and got.usage.input_tokens_details.cached_tokens == one.usage.total_tokens
    assert nexts[0].output_text == nexts[2].output_text
    changed = client.responses.create(input="And?", instructions="Other.", previous_response_id=one.id, **keys)
    assert changed.usage and changed.usage.input_tokens_details.cached_tokens == 0
    assert client.responses.retrieve(one.id).output_text == one.output_text
    listed = list(client.responses.input_items.list(nexts[0].id, order="asc"))
    assert [x.content[0].text for x in listed] == ["What of the sea?", one.output_text, "And the ship?"]  # type: ignore[union-attr]
    client.responses.delete(one.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            call(one.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(input="x", previous_response_id=one.id, **keys)
    gone = client.responses.create(input="Stays?", store=False, **keys)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(gone.id)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(nexts[0].id)


def test_a_response_that_streams(client: openai.OpenAI) -> None:
    keys: dict[str, Any] = {"model": "demo", "max_output_tokens": 8, "temperature": 0}
    whole = client.responses.create(input="Stream, please.", **keys)
    told = list(client.responses.create(input="Stream, please.", stream=True, **keys))
    assert [e.sequence_number for e in told] == list(range(len(told)))
    kinds = [e.type.removeprefix("response.") for e in told]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert "".join(e.delta for e in told if e.type == "response.output_text.delta") == whole.output_text
    last: Any = told[-1]
    assert client.responses.retrieve(last.response.id).output_text == whole.output_text


def test_conversations(client: openai.OpenAI) -> None:
    items: list[Any] = [{"type": "message", "role": "user", "content": "Of conversations."}]
    talk = client.conversations.create(items=items, metadata={"of": "test"})
    keys: dict[str, Any] = {"model": "demo", "max_output_tokens": 6, "conversation": talk.id}
    one = client.responses.create(input="First.", **keys)
    two = client.responses.create(input="Second.", **keys)
    assert one.usage and two.usage and two.usage.input_tokens_details.cached_tokens == one.usage.total_tokens
    held: Any = list(client.conversations.items.list(talk.id, order="asc", limit=2))
    assert [x.content[0].text for x in held] == ["Of conversations.", "First.", one.output_text, "Second.", two.output_text]
    assert [x.id for x in client.conversations.items.list(talk.id)] == [x.id for x in held[::-1]]
    assert client.conversations.items.retrieve(held[1].id, conversation_id=talk.id) == held[1]
    client.conversations.items.delete(held[4].id, conversation_id=talk.id)
    assert len(list(client.conversations.items.list(talk.id))) == 4
    client.conversations.items.create(talk.id, items=[{"role": "user", "content": "More."}])
    assert client.conversations.update(talk.id, metadata={"a": "b"}).metadata == {"a": "b"}
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(input="x", previous_response_id=one.id, **keys)
    assert error.value.param == "conversation"
    client.conversations.delete(talk.id)
    for call in (
        client.conversations.retrieve,
        client.conversations.delete,
        lambda id: client.responses.create(input="x", **keys),
    ):
        with pytest.raises(openai.NotFoundError):
            call(talk.id)


def test_everything_is_there_after_a_restart(pair: Any, serving: Callable, connecting: Callable, tmp_path: Path) -> None:
    messages: list[Any] = [{"role": "system", "content": "Of restarts."}, {"role": "user", "content": "One."}]
    keys: dict[str, Any] = {"model": "demo", "max_output_tokens": 6}
    with serving(House(*pair, name="demo", folder=tmp_path)) as url, connecting(url) as client:
        said, read, _ = ask(client, messages)
        one = client.responses.create(input="Of restarts.", **keys)
        talk = client.conversations.create(items=[{"role": "user", "content": "Kept."}])
    assert len(list((tmp_path / "blobs").iterdir())) == 2
    (tmp_path / "blobs" / "half.new").write_bytes(b"left over by a crash")
    (tmp_path / "blobs" / f"{'0' * 64}.silt").write_bytes(b"without a row")
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Two."}]
    house = House(*pair, name="demo", folder=tmp_path)
    assert len(list((tmp_path / "blobs").iterdir())) == 2 and not len(house.marks)
    with serving(house) as url, connecting(url) as client:
        assert ask(client, messages)[2] == read + 8
        two = client.responses.create(input="Two.", previous_response_id=one.id, **keys)
        assert one.usage and two.usage and two.usage.input_tokens_details.cached_tokens == one.usage.total_tokens
        assert client.responses.retrieve(one.id).output_text == one.output_text
        assert [x.content[0].text for x in client.conversations.items.list(talk.id)] == ["Kept."]  # type: ignore[union-attr]
        for blob in (tmp_path / "blobs").iterdir():
            blob.write_bytes(b"damaged")
    with serving(House(*pair, name="demo", folder=tmp_path)) as url, connecting(url) as client:
        assert ask(client, messages)[2] == 0  # what cannot be read is read again
        assert client.responses.create(input="Two.", previous_response_id=one.id, **keys).output_text


def test_a_retry_does_nothing_twice(client: openai.OpenAI) -> None:
    talk = client.conversations.create()
    keys: dict[str, Any] = {"model": "demo", "max_output_tokens": 4, "conversation": talk.id, "input": "Once."}
    for headers in ({"Idempotency-Key": "k"}, {"x-stainless-retry-count": "1"}):
        before = len(list(client.conversations.items.list(talk.id)))
        one = client.responses.create(**keys, extra_headers={name: x for name, x in headers.items() if x == "k"})
        two = client.responses.create(**keys, extra_headers=headers)
        assert one.id == two.id and len(list(client.conversations.items.list(talk.id))) == before + 2
        other = client.responses.create(**keys | {"input": "Twice."}, extra_headers=headers)
        assert other.id != one.id
    assert client.responses.create(**keys).id != client.responses.create(**keys).id


def test_one_writer_of_a_conversation(client: openai.OpenAI) -> None:
    talk = client.conversations.create()
    keys: dict[str, Any] = {"model": "demo", "conversation": talk.id, "input": "Alone."}
    stream = client.responses.create(**keys, stream=True, max_output_tokens=100_000)
    next(iter(stream))
    for call in (lambda: client.responses.create(**keys, max_output_tokens=4), lambda: client.conversations.delete(talk.id)):
        with pytest.raises(openai.ConflictError):
            call()
    stream.close()
    for _ in range(200):
        try:
            assert client.responses.create(**keys, max_output_tokens=4).usage
            break
        except openai.ConflictError:
            time.sleep(0.02)
    assert len(list(client.conversations.items.list(talk.id))) == 2


def test_long_conversations_keep_few_old_sessions(pair: Any) -> None:
    model, tok = pair
    house = House(model, tok, name="demo")
    s = st.Session(model, tok)
    s.append("x")
    items = chain(house.marks.seed, list(range(400)))
    for i, item in enumerate(items):
        house.marks.keep("local", item, "x" * (i + 1), s.fork(), False)
        house.marks.thin("local", items[: i + 1])
    lengths = [mark.length for mark in house.store.marks("local", items)]
    assert lengths[:128] == list(range(400, 272, -1))
    assert [n - 1 for n in lengths[128:]] == [*range(270, 142, -2), *range(140, -1, -4)]
    assert len(house.marks) == len(lengths)
    house.marks.thin("other", items)
    assert [mark.length for mark in house.store.marks("local", items)] == lengths
    for i in range(150):
        house.marks.keep("local", "texts", f"{i % 140}", s.fork(), False)  # the last ten are known
        house.marks.thin("local", ["texts"])
    assert len(house.store.marks("local", ["texts"])) == 128
