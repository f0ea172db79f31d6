"""`/v1/responses`: a response is one answer that is kept; the next one may go on from it, any number of times."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request

from .answer import Choice, Wanted
from .conversation import as_item, from_items, links, prompt
from .engine import undivided
from .fields import CHAT_TOKENS, Response, parsed
from .house import Events, House, event, found, once, owner, read_json, while_there
from .logprobs import content
from .problem import bad
from .template import Message

EMPTY = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False, "truncation": "disabled", "background": False}
# What strict readers of a response require, though it says nothing here.
EMPTY |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "service_tier": "default", "reasoning": None, "user": None}
EMPTY |= {"max_tool_calls": None, "safety_identifier": None, "prompt_cache_key": None}


class Reply:
    """One request for a response. Its object is `body`; `item` is the message of the answer."""

    def __init__(self, house: House, request: Request, given: Response) -> None:
        self.house, self.given, self.owner = house, given, owner(request)
        self._left = False
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
            "status": "in_progress",
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
        """The events of a request that streams; the answer has begun."""
        count = iter(range(1 << 62))

        def told(name: str, **more: Any) -> str:
            return event({"type": name, "sequence_number": next(count)} | more, name)

        where = {"item_id": self.item["id"], "output_index": 0, "content_index": 0}
        yield told("response.created", response=self.body)
        yield told("response.in_progress", response=self.body)
        yield told("response.output_item.added", output_index=0, item=self.item | {"status": "in_progress", "content": []})
        yield told("response.content_part.added", **where, part=_part(""))
        async for _, piece in self.answer.pieces():
            found = self._likely(self.answer.choices[0])
            yield told("response.output_text.delta", **where, delta=piece, logprobs=found)
        body = await self.done()
        text, item = self.answer.choices[0].text, body["output"][0]
        yield told("response.output_text.done", **where, text=text, logprobs=item["content"][0]["logprobs"])
        yield told("response.content_part.done", **where, part=item["content"][0])
        yield told("response.output_item.done", output_index=0, item=item)
        yield told(f"response.{body['status']}", response=body)

    async def done(self) -> dict[str, Any]:
        """The text is complete: keep the session, the object and the items."""
        (choice,), marks = self.answer.choices, self.house.marks
        await self.answer.keep([links(marks, [*self.messages, Message("assistant", choice.text)])[-1]])
        cut = choice.finish == "length"
        status = "incomplete" if cut else "completed"
        item = self.item | {"status": status, "content": [_part(choice.text, self._all(choice))]}
        body = self.body | {
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
        await undivided(self._store, body, item)
        return body

    def _likely(self, choice: Choice) -> list[dict[str, Any]]:
        """Probabilities of the tokens that no event had yet."""
        return [] if choice.spelling is None else content(self.house.tokenizer, choice.spelling.more(choice.shown))

    def _all(self, choice: Choice) -> list[dict[str, Any]]:
        return [] if choice.spelling is None else content(self.house.tokenizer, choice.spelling.upto(choice.shown))

    def _store(self, body: dict[str, Any], item: dict[str, Any]) -> None:
        store = self.house.store
        with store.together():
            if self.talk is not None:
                store.extend(self.owner, self.talk, [*self.input, item])
            if body["store"]:
                kept = {"object": body, "input": self.input, "before": self.before}
                store.put("response", self.owner, body["id"], kept | {"mark": self.answer.choices[0].mark})

    def _before(self) -> list[dict[str, Any]]:
        """The items of the conversation so far."""
        given, store = self.given, self.house.store
        if self.talk is not None:
            found(store.get("conversation", self.owner, self.talk), "conversation", self.talk)
            return store.items(self.owner, self.talk)
        if given.previous_response_id is None:
            return []
        kept = found(store.get("response", self.owner, given.previous_response_id), "response", given.previous_response_id)
        return [*kept["before"], *kept["input"], *kept["object"]["output"]]


def routes(house: House) -> APIRouter:
    """The routes of responses."""
    router = APIRouter(prefix="/v1/responses")

    def kept(request: Request, id: str) -> dict[str, Any]:
        return found(house.store.get("response", owner(request), id), "response", id)

    @router.post("")
    async def create(request: Request) -> Any:
        body = await read_json(request)
        given = parsed(Response, body)

        async def whole() -> dict[str, Any]:
            return await Reply(house, request, given).whole()

        if not given.stream:
            return await once(house, request, body, whole)
        reply = Reply(house, request, given)
        try:
            await while_there(request, reply.answer.begin())
        except BaseException:
            await reply.close()
            raise
        return Events(reply.stream(), reply.close)

    @router.get("/{id}")
    def retrieve(request: Request, id: str) -> Any:
        return kept(request, id)["object"]

    @router.get("/{id}/input_items")
    def input_items(request: Request, id: str) -> Any:
        held = kept(request, id)
        return page(request, [*held["before"], *held["input"]])

    @router.delete("/{id}")
    def delete(request: Request, id: str) -> Any:
        mark = kept(request, id).get("mark")
        house.store.delete("response", owner(request), id)
        if mark is not None:
            house.marks.drop(mark)
        return {"id": id, "object": "response", "deleted": True}

    @router.post("/{id}/cancel")
    def cancel(request: Request, id: str) -> Any:
        kept(request, id)
        raise bad("id", "Only background responses can be cancelled, and this server has none.")

    return router


def page(request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
    """A part of a list of items, by `limit`, `order` and `after`. Raises Problem."""
    asked = request.query_params
    order, limit = asked.get("order", "desc"), asked.get("limit", "20")
    if order not in ("asc", "desc"):
        raise bad("order", "order must be asc or desc.")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= 100):
        raise bad("limit", "limit must be a whole number from 1 to 100.")
    items = items if order == "asc" else items[::-1]
    after = asked.get("after")
    if after is not None:
        at = next((i for i, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise bad("after", "after is no item of this list.")
        items = items[at + 1 :]
    data = items[: int(limit)]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, "has_more": len(items) > len(data)} | ends


def _part(text: str, likely: Sequence[Any] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(likely)}


def _conversation(given: Response) -> str | None:
    name = given.conversation
    if isinstance(name, dict):
        name = name.get("id")
        if not isinstance(name, str):
            raise bad("conversation.id", "conversation.id must be a text.")
    return name
