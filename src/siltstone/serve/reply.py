"""One response: the object of a request, its events, and what is kept of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import Request

from .answer import Choice, Wanted
from .conversation import as_item, from_items, links, prompt
from .engine import undivided
from .fields import CHAT_TOKENS, Response
from .following import event
from .house import House, found, owner
from .logprobs import content
from .once import Try
from .problem import bad
from .template import Message

EMPTY = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False, "truncation": "disabled"}
# What strict readers of a response require, though it says nothing here.
EMPTY |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "service_tier": "default", "reasoning": None, "user": None}
EMPTY |= {"max_tool_calls": None, "safety_identifier": None, "prompt_cache_key": None}
ENDED = ("completed", "incomplete")  # states that a conversation can go on from


class Reply:
    """One request for a response. Its object is `body`; `item` is the message of the answer.

    one      remembers the answer for retries
    events   those that were made so far
    stored   whether the complete text is kept
    """

    def __init__(self, house: House, request: Request, given: Response, one: Try) -> None:
        self.house, self.given, self.owner, self.one = house, given, owner(request), one
        self.events: list[str] = []
        self._left, self._background, self.stored = False, bool(given.background), False
        if self._background and given.store is False:
            raise bad("background", "background=true needs store=true: the response is retrieved later.")
        if given.stream_options is not None and not given.stream:
            raise bad("stream_options", "stream_options needs stream=true.")
        self.talk = _conversation(given)
        if self.talk is not None and given.previous_response_id is not None:
            raise bad("conversation", "Give previous_response_id or conversation, not both.")
        self.input = [as_item(m) for m in from_items(given.input, "input")]
        if not self.input:
            raise bad("input", "input is empty; give a text or messages.")
        if self.talk is not None:
            house.writers.take(self.talk)
        try:
            self._prepare(request)
        except BaseException:
            self._leave()
            raise

    def _prepare(self, request: Request) -> None:
        house, given = self.house, self.given
        self.before = self._before()
        own = [Message("system", given.instructions)] if given.instructions is not None else []
        self.messages = own + from_items([*self.before, *self.input], "input")
        warm, top = given.temperature, given.top_p
        tokens = given.max_output_tokens or CHAT_TOKENS
        self.likely = bool(given.include)
        if given.top_logprobs is not None and not self.likely:
            raise bad("top_logprobs", 'top_logprobs needs include=["message.output_text.logprobs"].')
        scored = (given.top_logprobs or 0) if self.likely else None
        wanted = Wanted(tokens, 1.0 if warm is None else warm, 1.0 if top is None else top, top=scored)
        self.answer = house.answer(request, prompt(house.marks, house.template, self.messages), wanted)
        self.item = {"type": "message", "id": f"msg_{secrets.token_hex(16)}", "role": "assistant"}
        self.body: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(24)}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "queued" if self._background else "in_progress",
            "background": self._background,
            "model": house.model_named(given.model),
            "output": [],
            "error": None,
            "incomplete_details": None,
            "instructions": given.instructions,
            "previous_response_id": given.previous_response_id,
            "conversation": None if self.talk is None else {"id": self.talk},
            "max_output_tokens": given.max_output_tokens,
            "temperature": wanted.temperature,
            "top_p": wanted.top_p,
            "top_logprobs": wanted.top or 0,
            "store": given.store is not False,
            "metadata": given.metadata or {},
            "text": {"format": {"type": "text"}},
            "usage": None,
            **EMPTY,
        }

    async def whole(self) -> dict[str, Any]:
        """The object of a request that does not stream."""
        try:
            await self.answer.complete()
            return await self.done()
        finally:
            await self.close()

    async def close(self) -> None:
        """The session leaves, and others may write to the conversation."""
        self._leave()
        await self.answer.close()

    def _leave(self) -> None:
        if self.talk is not None and not self._left:
            self._left = True
            self.house.writers.give(self.talk)

    async def stream(self) -> AsyncGenerator[str, None]:
        """The events. Those of a background response begin before it has a slot; any other has begun."""
        where = {"item_id": self.item["id"], "output_index": 0, "content_index": 0}
        yield self.told("response.created", response=self.body)
        if self._background:
            yield self.told("response.queued", response=self.body)
            await self.answer.begin()
            self.body = self.body | {"status": "in_progress"}
        yield self.told("response.in_progress", response=self.body)
        yield self.told("response.output_item.added", output_index=0, item=self.item | {"status": "in_progress", "content": []})
        yield self.told("response.content_part.added", **where, part=_part(""))
        async for _, piece in self.answer.pieces():
            found = self._likely(self.answer.choices[0])
            yield self.told("response.output_text.delta", **where, delta=piece, logprobs=found)
        body = await self._finished()
        text, item = self.answer.choices[0].text, body["output"][0]
        last = [
            self.told("response.output_text.done", **where, text=text, logprobs=item["content"][0]["logprobs"]),
            self.told("response.content_part.done", **where, part=item["content"][0]),
            self.told("response.output_item.done", output_index=0, item=item),
            self.told(f"response.{body['status']}", response=body),
        ]
        await undivided(self._store, body)
        for text in last:
            yield text

    def told(self, name: str, **more: Any) -> str:
        """The next event."""
        self.events.append(event({"type": name, "sequence_number": len(self.events)} | more, name))
        return self.events[-1]

    async def done(self) -> dict[str, Any]:
        """The text is complete: keep the session, the object and the items."""
        body = await self._finished()
        await undivided(self._store, body)
        return body

    def record(self, body: dict[str, Any]) -> None:
        """Keep the object as it is now, with what it was asked; a background one with its events."""
        choice = self.answer.choices[0]
        kept = {"object": body, "input": self.input, "before": self.before, "mark": choice.mark}
        kept |= {"events": self.events} if self._background else {}
        self.house.store.put("response", self.owner, body["id"], kept, self.house.limits.ttl)

    async def _finished(self) -> dict[str, Any]:
        """The object of the complete text, whose session is kept."""
        (choice,), marks = self.answer.choices, self.house.marks
        await self.answer.keep([links(marks, [*self.messages, Message("assistant", choice.text)])[-1]])
        cut = choice.finish == "length"
        status = "incomplete" if cut else "completed"
        item = self.item | {"status": status, "content": [_part(choice.text, self._all(choice))]}
        return self.body | {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [item],
            "completed_at": int(time.time()),
            "usage": {
                "input_tokens": self.answer.read,
                "input_tokens_details": {"cached_tokens": self.answer.cached, "cache_write_tokens": 0},
                "output_tokens": self.answer.written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.answer.read + self.answer.written,
            },
        }

    def _store(self, body: dict[str, Any]) -> None:
        store = self.house.store
        with store.together():
            if self.talk is not None:
                store.extend(self.owner, self.talk, [*self.input, *body["output"]])
                store.touch(self.owner, self.talk)
            if body["store"]:
                self.record(body)
            self.one.keep(self.events if self.given.stream else body)
        self.body, self.stored = body, True

    def _likely(self, choice: Choice) -> list[dict[str, Any]]:
        """Probabilities of the tokens that no event had yet."""
        return [] if choice.spelling is None else content(self.house.tokenizer, choice.spelling.more(choice.shown))

    def _all(self, choice: Choice) -> list[dict[str, Any]]:
        return [] if choice.spelling is None else content(self.house.tokenizer, choice.spelling.upto(choice.shown))

    def _before(self) -> list[dict[str, Any]]:
        """The items of the conversation so far."""
        given, store = self.given, self.house.store
        if self.talk is not None:
            found(store.get("conversation", self.owner, self.talk), "conversation", self.talk)
            return store.items(self.owner, self.talk)
        if given.previous_response_id is None:
            return []
        kept = found(store.get("response", self.owner, given.previous_response_id), "response", given.previous_response_id)
        if kept["object"]["status"] not in ENDED:
            raise bad("previous_response_id", f"This response is {kept['object']['status']}; only a complete one has a next one.")
        store.touch(self.owner, given.previous_response_id)
        return [*kept["before"], *kept["input"], *kept["object"]["output"]]


def _part(text: str, likely: Sequence[Any] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(likely)}


def _conversation(given: Response) -> str | None:
    name = given.conversation
    if isinstance(name, dict):
        name = name.get("id")
        if not isinstance(name, str):
            raise bad("conversation.id", "conversation.id must be a text.")
    return name
