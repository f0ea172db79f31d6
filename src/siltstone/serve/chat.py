"""`/v1/chat/completions`: a conversation is sent whole each time, and only what is new is read."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Request

from .answer import Answer, Choice, Wanted
from .conversation import links, messages, prompt
from .fields import CHAT_TOKENS, Chat, Completion, parsed
from .following import event
from .house import House, answered, found, owner, read_json
from .logprobs import content
from .problem import bad
from .template import Message


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens of an answer; `cached_tokens` were not read again."""
    return {
        "prompt_tokens": answer.read,
        "completion_tokens": answer.written,
        "total_tokens": answer.read + answer.written,
        "prompt_tokens_details": {"cached_tokens": answer.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def wanted(house: House, given: Chat | Completion, tokens: int, top: int | None = None) -> Wanted:
    """How a request wants its texts written. top: see `Wanted`. Raises Problem for ids that the model lacks."""
    bias = {int(id_): more for id_, more in (given.logit_bias or {}).items()}
    if bias and max(bias) >= house.tokenizer.vocab_size:
        raise bad("logit_bias", f"logit_bias has the id {max(bias)}; ids are 0 to {house.tokenizer.vocab_size - 1}.")
    stop = (given.stop,) if isinstance(given.stop, str) else tuple(given.stop or ())
    warm = given.temperature
    return Wanted(
        tokens,
        1.0 if warm is None else warm,
        1.0 if given.top_p is None else given.top_p,
        stop,
        given.seed,
        given.n or 1,
        bias=bias,
        top=top,
    )


class Talk:
    """One request for a chat completion."""

    def __init__(self, house: House, request: Request, given: Chat) -> None:
        self.house, self.given, self.owner = house, given, owner(request)
        if given.max_tokens is not None and given.max_completion_tokens is not None:
            raise bad("max_tokens", "max_tokens and max_completion_tokens are the same; give one of them.")
        if given.stream_options is not None and not given.stream:
            raise bad("stream_options", "stream_options needs stream=true.")
        self.head = {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": house.model_named(given.model),
            "system_fingerprint": f"fp_{house.marks.seed[:12]}",
        }
        self.messages = messages(given.messages, "messages")
        if given.top_logprobs is not None and not given.logprobs:
            raise bad("top_logprobs", "top_logprobs needs logprobs=true.")
        tokens = given.max_completion_tokens or given.max_tokens or CHAT_TOKENS
        how = wanted(house, given, tokens, (given.top_logprobs or 0) if given.logprobs else None)
        self.answer = house.answer(request, prompt(house.marks, house.template, self.messages), how)

    async def begin(self) -> None:
        """See `Asked`."""
        await self.answer.begin()

    async def close(self) -> None:
        """The sessions leave."""
        await self.answer.close()

    async def whole(self) -> dict[str, Any]:
        """The object of a request that does not stream."""
        try:
            await self.answer.complete()
            return await self.done()
        finally:
            await self.close()

    async def done(self) -> dict[str, Any]:
        """The texts are complete: keep the sessions, and the object if it is wanted."""
        choices = self.answer.choices
        await self.answer.keep([self._item(choice) for choice in choices])
        body = self.head | {"choices": [self._choice(i, x) for i, x in enumerate(choices)], "usage": usage(self.answer)}
        if self.given.store:
            body["metadata"] = self.given.metadata or {}
            kept = {"object": body, "messages": [vars(m) for m in self.messages]}
            await asyncio.to_thread(self.house.store.put, "chat", self.owner, body["id"], kept, self.house.limits.ttl)
        return body

    async def stream(self) -> AsyncGenerator[str, None]:
        """The events of a request that streams; the answer has begun."""
        options = self.given.stream_options
        counted = options is not None and bool(options.include_usage)
        more = {"usage": None} if counted else {}
        for i in range(len(self.answer.choices)):
            yield event(self._chunk([_delta(i, {"role": "assistant", "content": "", "refusal": None})], more))
        async for i, piece in self.answer.pieces():
            choice = self.answer.choices[i]
            yield event(self._chunk([_delta(i, {"content": piece}, None, self._likely(choice))], more))
        body = await self.done()
        for i, choice in enumerate(self.answer.choices):
            yield event(self._chunk([_delta(i, {}, choice.finish, self._likely(choice))], more))
        if counted:
            yield event(self._chunk([], {"usage": body["usage"]}))
        yield event("[DONE]")

    def _chunk(self, choices: Sequence[Any], more: dict[str, Any]) -> dict[str, Any]:
        return self.head | {"object": "chat.completion.chunk", "choices": choices} | more

    def _likely(self, choice: Choice) -> dict[str, Any] | None:
        """Probabilities of the tokens that no event had yet."""
        found = [] if choice.spelling is None else choice.spelling.more(choice.shown)
        return {"content": content(self.house.tokenizer, found), "refusal": None} if found else None

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []}
        found = None
        if choice.spelling is not None:
            found = {"content": content(self.house.tokenizer, choice.spelling.upto(choice.shown)), "refusal": None}
        return {"index": index, "message": message, "finish_reason": choice.finish, "logprobs": found}

    def _item(self, choice: Choice) -> str:
        return links(self.house.marks, [*self.messages, Message("assistant", choice.text)])[-1]


def _delta(index: int, delta: dict[str, Any], finish: str | None = None, likely: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish, "logprobs": likely}


def routes(house: House) -> APIRouter:
    """The routes of stored and new chat completions."""
    router = APIRouter(prefix="/v1/chat/completions")

    @router.post("")
    async def create(request: Request) -> Any:
        body = await read_json(request)
        given = parsed(Chat, body)
        return await answered(house, request, body, bool(given.stream), lambda: Talk(house, request, given))

    def stored(request: Request, id: str) -> dict[str, Any]:
        return found(house.store.get("chat", owner(request), id), "chat completion", id)

    @router.get("")
    def listed(request: Request) -> Any:
        data = [kept["object"] for kept in house.store.listed("chat", owner(request), 100)]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return {"object": "list", "data": data, "has_more": False} | ends

    @router.get("/{id}")
    def retrieve(request: Request, id: str) -> Any:
        return stored(request, id)["object"]

    @router.get("/{id}/messages")
    def read(request: Request, id: str) -> Any:
        data = [m | {"id": f"{id}-{i}"} for i, m in enumerate(stored(request, id)["messages"])]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]}
        return {"object": "list", "data": data, "has_more": False} | ends

    @router.delete("/{id}")
    def delete(request: Request, id: str) -> Any:
        stored(request, id)
        house.store.delete("chat", owner(request), id)
        return {"object": "chat.completion.deleted", "id": id, "deleted": True}

    return router
