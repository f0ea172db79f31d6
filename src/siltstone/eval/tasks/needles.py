"""Needles in a haystack: values said somewhere in a long text, asked at its end.  Source: RULER, arXiv 2404.06654.

Definitions and score are RULER's: the score of an item is the share of the wanted values that the greedy answer contains, without
regard to case. The sentences are our own, so that figures cannot be compared with published ones.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .base import Asked, Observation, TextTask, room
from .reader import Reader
from .templates import NEEDLES
from .words import labels, pick, spread

NOISE = ["Leaves are falling. ", "Clouds are passing. ", "Snow is melting. ", "On it goes. ", "Round and round. "]
DEPTHS = (0, 25, 50, 75, 100)
FACT, QUESTION = NEEDLES["test"]["fact"], NEEDLES["test"]["question"]


def matched(answer: str, wanted: Sequence[str]) -> float:
    """The share of `wanted` that is found in the answer, without regard to case."""
    return sum(each.lower() in answer.lower() for each in wanted) / len(wanted)


class Needles(TextTask):
    """Base of the needle tasks.

    hay      "noise" (five sentences over and over), "prose", or "needles" (all other sentences are needles too)
    ids      whether keys, and whether values, are UUIDs instead of words and seven-digit numbers
    keys     needles with different keys; `values` of each; `asked` keys
    """

    hay: ClassVar[str] = "prose"
    ids: ClassVar[tuple[bool, bool]] = (False, False)
    keys: ClassVar[int] = 1
    values: ClassVar[int] = 1
    asked: ClassVar[int] = 1
    chance = "0"

    def item(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> tuple[str, str, list[str], int]:
        """The document, the question, the wanted values, and the depth (per cent; -1: needles are spread at random)."""
        known, used = pick(labels("test"), self.keys, by), set()
        if self.ids[0] or self.hay == "needles":  # keys of the same form as those of the other needles
            known = [self._key(by, [key], used) for key in known]
        told = [[self._value(by, used) for _ in range(self.values)] for _ in known]
        facts = [FACT.format(key, value) for key, values in zip(known, told, strict=True) for value in values]
        facts = [facts[i] for i in by.permutation(len(facts))]
        wanted = [value for values in told[: self.asked] for value in values]
        names = ", ".join(known[: self.asked])
        question = QUESTION.format(names, names)
        needed = reader.count(" ".join(facts)) + reader.count(question)
        room(self.name, length, needed)
        alone = len(facts) == 1
        depth = DEPTHS[item % len(DEPTHS)] if alone else -1
        hay = self._hay(reader, length - needed, by, set(known), used)
        return spread(hay, facts, by, depth / 100 if alone else None), question, wanted, depth

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        document, question, wanted, depth = self.item(reader, length, item, by)
        most = 8 + max(reader.count(f" {', '.join(wanted)}."), 24)
        answer = reader.answer(reader.read(document), question, most)
        at: dict[str, int | str] = {"length": length}
        if depth >= 0:
            at["depth"] = depth
        return [Observation("string match", matched(answer, wanted), at)]

    def questions(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Asked]:
        document, question, wanted, _ = self.item(reader, length, item, by)
        return [Asked(document + question, wanted)]

    def _key(self, by: np.random.Generator, words: Sequence[str], used: set[str]) -> str:
        """A key that is not used: a UUID, or one of the labels and a number, of which there are more than a text has needles."""
        while True:
            key = unique(by) if self.ids[0] else f"{words[int(by.integers(len(words)))]}-{by.integers(10**4)}"
            if key not in used:
                used.add(key)
                return key

    def _value(self, by: np.random.Generator, used: set[str]) -> str:
        while True:
            value = unique(by) if self.ids[1] else str(by.integers(10**6, 10**7))
            if value not in used:
                used.add(value)
                return value

    def _hay(self, reader: Reader, tokens: int, by: np.random.Generator, known: set[str], used: set[str]) -> list[str]:
        """Sentences of at most `tokens` tokens. Needles among them have keys and values of their own."""
        if self.hay == "prose":
            return reader.filler(tokens, by)
        others = [x for x in labels("test") if not any(key.startswith(x) for key in known)]
        out, total = [], 0
        while True:
            if self.hay == "noise":
                sentence = NOISE[len(out) % len(NOISE)]
            else:
                sentence = FACT.format(self._key(by, others, used), self._value(by, used)) + " "
            total += reader.count(sentence)
            if total > tokens:
                return out
            out.append(sentence)


def unique(by: np.random.Generator) -> str:
    """A random UUID of version 4."""
    return str(uuid.UUID(bytes=by.bytes(16), version=4))


def _needles(name: str, about: str, **settings: Any) -> type[Needles]:
    return type(name, (Needles,), {"name": f"niah_{name}", "__doc__": about, "__module__": __name__} | settings)


Single1 = _needles("single_1", "One number, in noise that repeats.", hay="noise")
Single2 = _needles("single_2", "One number, in prose.")
Single3 = _needles("single_3", "One UUID, in prose.", ids=(False, True))
MultiKey1 = _needles("multikey_1", "Four needles in prose, one of them asked.", keys=4)
MultiKey2 = _needles("multikey_2", "One needle among needles.", hay="needles")
MultiKey3 = _needles("multikey_3", "One needle among needles; keys and values are UUIDs.", hay="needles", ids=(True, True))
MultiValue = _needles("multivalue", "Four values of one key, in prose.", values=4)
MultiQuery = _needles("multiquery", "Four needles in prose, all asked in one question.", keys=4, asked=4)
