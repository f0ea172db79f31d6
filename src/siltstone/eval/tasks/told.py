"""Told or not told: a fact is said once and asked later; and several facts, asked at one distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .base import Asked, Observation, TextTask
from .reader import Reader
from .templates import TOLD
from .words import THINGS, names, pick, split_of

TELL, ASK, OWNS, OWNER = (TOLD["test"][key] for key in ("tell", "ask", "owns", "owner"))


@dataclass(frozen=True)
class ToldOptions:
    """candidates: names among which the told one must rank first."""

    candidates: int = 100


class Told(TextTask):
    """A name is told, then comes a distance of prose, then the name is asked for among the candidates.

    Scores: "ranked first" by the difference of mean log-probability between the told text and the same text without the fact;
    "first, told" by the told text alone; "first, not told" by the text without the fact (the control: chance)."""

    name = "told"
    Options = ToldOptions
    levels = (0, 100, 1000, 10000)
    chance = "1 / candidates"
    compared = True

    def item(self, reader: Reader, length: int, by: np.random.Generator) -> tuple[str, list[str], int]:
        """What follows the fact, the candidates, and which of them is told."""
        candidates = pick(names("test"), self.options.candidates, by)
        right = int(by.integers(len(candidates)))
        return "".join(reader.filler(length, by)), candidates, right

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        between, candidates, right = self.item(reader, length, by)
        written = [f" {each}" for each in candidates]
        told = reader.ranks(reader.read(TELL.format(candidates[right]) + between), ASK, written)
        control = reader.ranks(reader.read(between), ASK, written)
        at: dict[str, int | str] = {"distance": length, "candidates": len(candidates)}
        scores = {"ranked first": told - control, "first, told": told, "first, not told": control}
        return [Observation(score, float(found.argmax() == right), at) for score, found in scores.items()]

    def questions(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Asked]:
        between, candidates, right = self.item(reader, length, by)
        return [Asked(TELL.format(candidates[right]) + between + ASK, [candidates[right]], candidates)]


class Told20(Told):
    """As `told`, among 20 candidates."""

    name = "told_20"

    def __init__(self, options: ToldOptions | None = None) -> None:
        super().__init__(ToldOptions(20) if options is None else options)


class RecallLoad(TextTask):
    """Recall against load: 1, 4, 16 and 64 people each own a thing; then one person's thing is asked for among all eight.

    The question comes `length` tokens after the last fact; the load is doubled twice from level to level."""

    name = "recall_load"
    levels = (0, 256)
    chance = "1 / 8"

    def item(self, reader: Reader, length: int, by: np.random.Generator) -> list[tuple[int, str, str, str]]:
        """For each load: the load, the document, the question and the answer, which is one of the eight THINGS of the test."""
        out, things, between = [], split_of(THINGS, "test"), "".join(reader.filler(length, by))
        for load in (1, 4, 16, 64):
            people = pick(names("test"), load, by)
            owned = [things[i] for i in by.integers(0, len(things), load)]
            who = int(by.integers(load))
            facts = "".join(OWNS.format(person, thing) for person, thing in zip(people, owned, strict=True))
            out.append((load, facts + between, OWNER.format(people[who]), owned[who]))
        return out

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        out, things = [], split_of(THINGS, "test")
        for load, document, question, answer in self.item(reader, length, by):
            ranks = reader.ranks(reader.read(document), question, [f" {x}" for x in things])
            right = float(things[int(ranks.argmax())] == answer)
            out.append(Observation("ranked first", right, {"load": load, "distance": length}))
        return out

    def questions(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Asked]:
        things = split_of(THINGS, "test")
        return [Asked(text + question, [answer], things) for _, text, question, answer in self.item(reader, length, by)]
