"""`/v1/completions`: texts or ids that the model continues."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from ..inference.likely import Likely
from .answer import Answer, Choice, Prompt
from .chat import wanted
from .conversation import sound
from .fields import COMPLETION_TOKENS, Completion, parsed
from .following import event
from .house import House, answered, read_json
from .logprobs import Spelling, joined, legacy
from .marks import chain
from .problem import bad

BEGIN = 16  # characters by which texts with the same beginning are found


def prompts(house: House, given: Completion) -> list[Prompt]:
    """What is read for each text of a request. Raises Problem for an empty one, and for ids that the model lacks."""
    prompt = given.prompt
    if isinstance(prompt, str):
        texts: list[Any] = [prompt]
    else:
        texts = [prompt] if all(isinstance(x, int) for x in prompt) else list(prompt)
    found = [_prompt(house, text, "prompt" if len(texts) == 1 else f"prompt[{i}]") for i, text in enumerate(texts)]
    scored = given.echo and given.logprobs is not None
    return [replace(one, likely=Likely(given.logprobs or 0)) for one in found] if scored else found


def _prompt(house: House, text: str | list[int], where: str) -> Prompt:
    if not text:
        raise bad(where, f"{where} is empty; there is nothing to continue.")
    if isinstance(text, str):
        return Prompt([_item(house, text)], sound(text, where))
    if max(text) >= house.tokenizer.vocab_size:
        raise bad(where, f"{where} has the id {max(text)}; ids are 0 to {house.tokenizer.vocab_size - 1}.")
    return Prompt([], house.tokenizer.decode(text), ids=text)


def _item(house: House, text: str) -> str:
    return chain(f"{house.marks.seed}\0text", [text[:BEGIN]])[0]


class Texts:
    """One request for completions."""

    def __init__(self, house: House, request: Request, given: Completion) -> None:
        self.house, self.given = house, given
        if given.stream_options is not None and not given.stream:
            raise bad("stream_options", "stream_options needs stream=true.")
        self.head = {
            "id": f"cmpl-{secrets.token_hex(16)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": house.model_named(given.model),
            "system_fingerprint": f"fp_{house.marks.seed[:12]}",
        }
        tokens = COMPLETION_TOKENS if given.max_tokens is None else given.max_tokens
        if not tokens and not given.echo:
            raise bad("max_tokens", "max_tokens=0 needs echo=true: there is nothing else to return.")
        how = wanted(house, given, tokens, given.logprobs)
        self.answers = [house.answer(request, prompt, how) for prompt in prompts(house, given)]

    async def begin(self) -> None:
        """The first answer begins."""
        await self.answers[0].begin()

    async def whole(self) -> dict[str, Any]:
        """The object of a request that does not stream."""
        try:
            for answer in self.answers:
                await answer.complete()
                await self._done(answer)
        finally:
            await self.close()
        choices = [self._choice(answer, choice) for answer in self.answers for choice in answer.choices]
        return self.head | {"choices": [x | {"index": i} for i, x in enumerate(choices)], "usage": self._usage()}

    async def stream(self) -> AsyncGenerator[str, None]:
        """The events of a request that streams; the first answer has begun."""
        options, n = self.given.stream_options, self.given.n or 1
        counted = options is not None and bool(options.include_usage)
        more = {"usage": None} if counted else {}
        for at, answer in enumerate(self.answers):
            if at:
                await answer.begin()
            if self.given.echo:
                for i in range(n):
                    yield self._chunk(at * n + i, (answer.prompt.body, None, self._prompt(answer)), more)
            async for i, piece in answer.pieces():
                yield self._chunk(at * n + i, (piece, None, self._likely(answer, answer.choices[i])), more)
            await self._done(answer)
            for i, choice in enumerate(answer.choices):
                yield self._chunk(at * n + i, ("", choice.finish, self._likely(answer, choice)), more)
        if counted:
            yield event(self.head | {"choices": [], "usage": self._usage()})
        yield event("[DONE]")

    async def close(self) -> None:
        """All sessions leave."""
        for answer in self.answers:
            await answer.close()

    async def _done(self, answer: Answer) -> None:
        await answer.keep([_item(self.house, answer.prompt.body + choice.text) for choice in answer.choices])
        await answer.close()

    def _choice(self, answer: Answer, choice: Choice) -> dict[str, Any]:
        text = answer.prompt.body + choice.text if self.given.echo else choice.text
        found = joined(self._prompt(answer), self._likely(answer, choice)) if self.given.echo else self._likely(answer, choice)
        return {"text": text, "logprobs": found, "finish_reason": choice.finish}

    def _chunk(self, index: int, told: tuple[str, str | None, Any], more: dict[str, Any]) -> str:
        text, finish, found = told
        choice = {"index": index, "text": text, "logprobs": found, "finish_reason": finish}
        return event(self.head | {"choices": [choice]} | more)

    def _prompt(self, answer: Answer) -> dict[str, Any] | None:
        """Probabilities of the tokens of the prompt."""
        likely = answer.prompt.likely
        return None if likely is None else legacy(self.house.tokenizer, Spelling(self.house.tokenizer, likely).upto())

    def _likely(self, answer: Answer, choice: Choice) -> dict[str, Any] | None:
        """Probabilities of the tokens that were not given yet."""
        if choice.spelling is None:
            return None
        start = len(answer.prompt.body) if self.given.echo else 0
        return legacy(self.house.tokenizer, choice.spelling.more(choice.shown), start)

    def _usage(self) -> dict[str, Any]:
        read, written = sum(x.read for x in self.answers), sum(x.written for x in self.answers)
        cached = sum(x.cached for x in self.answers)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def routes(house: House) -> APIRouter:
    """The route of completions."""
    router = APIRouter()

    @router.post("/v1/completions")
    async def create(request: Request) -> Any:
        body = await read_json(request)
        given = parsed(Completion, body)
        return await answered(house, request, body, bool(given.stream), lambda: Texts(house, request, given))

    return router
