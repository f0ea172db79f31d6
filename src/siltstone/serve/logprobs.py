"""Probabilities of the tokens of a text, in the forms of OpenAI's interface."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..inference.likely import Likely, Place
from ..text import StreamDecoder, Tokenizer

LEAST = -9999.0  # stands for minus infinity, which JSON lacks


@dataclass(frozen=True)
class Spelled:
    """A token, and where its text begins in the text that is written."""

    place: Place
    offset: int


class Spelling:
    """The tokens of one text as it grows.

    `upto(shown)` has those that begin before `shown` characters, or all; `more(shown)` those of them that it has not given yet.
    """

    def __init__(self, tokenizer: Tokenizer, likely: Likely) -> None:
        self.tokenizer, self.likely = tokenizer, likely
        self.found: list[Spelled] = []
        self._decoder, self._at, self._given = StreamDecoder(tokenizer), 0, 0

    def upto(self, shown: int | None = None) -> list[Spelled]:
        """See the class."""
        for place in self.likely.places[len(self.found) :]:
            self.found.append(Spelled(place, self._at))
            self._at += len(self._decoder.push(place.token))
        return self.found if shown is None else [x for x in self.found if x.offset < shown]

    def more(self, shown: int | None = None) -> list[Spelled]:
        """See the class."""
        found = self.upto(shown)[self._given :]
        self._given += len(found)
        return found


def content(tokenizer: Tokenizer, tokens: Iterable[Spelled]) -> list[dict[str, Any]]:
    """The form of chats and responses."""

    def one(token: int, score: float) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token)
        return {"token": spelled(raw), "logprob": _number(score), "bytes": list(raw)}

    return [one(x.place.token, x.place.score) | {"top_logprobs": [one(*best) for best in x.place.best]} for x in tokens]


def legacy(tokenizer: Tokenizer, tokens: Sequence[Spelled], start: int = 0) -> dict[str, Any]:
    """The form of completions. start: characters before the text, for `text_offset`."""

    def name(token: int) -> str:
        return spelled(tokenizer.token_bytes(token))

    tops: list[dict[str, float] | None] = []
    for x in tokens:
        names: dict[str, float] = {}
        for token, score in x.place.best:
            names.setdefault(name(token), _number(score) or LEAST)
        if not math.isnan(x.place.score) and x.place.best:
            names.setdefault(name(x.place.token), x.place.score)
        tops.append(names or None)
    return {
        "tokens": [name(x.place.token) for x in tokens],
        "token_logprobs": [_number(x.place.score) for x in tokens],
        "top_logprobs": tops,
        "text_offset": [start + x.offset for x in tokens],
    }


def joined(first: dict[str, Any] | None, then: dict[str, Any] | None) -> dict[str, Any] | None:
    """Two parts of the form of completions as one."""
    return {name: first[name] + then[name] for name in first} if first and then else first or then


def spelled(raw: bytes) -> str:
    """A token as text; one that is no text by its bytes, as `bytes:\\xe2\\x80`."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _number(score: float) -> float | None:
    return None if math.isnan(score) else max(score, LEAST)
