"""Facts of eight kinds, strewn in real text and asked at its end; the same text without them is the control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...inference.session import Session
from .base import Asked, Observation, TextTask, room
from .needles import matched
from .reader import Reader
from .words import labels, names, pick, spread

COLOURS = "green red blue white black yellow brown grey".split()
ANIMALS = "parrot tortoise donkey ferret goat raven hedgehog pony".split()
WORK = "carpenter lawyer gardener surgeon printer weaver pilot butcher".split()
DISHES = "mushroom soup,roast duck,apple pie,fried trout,onion tart,lamb stew,plum cake,barley bread".split(",")
PLACES = "Lisbon Oslo Vienna Cairo Dublin Naples Prague Athens".split()


@dataclass(frozen=True)
class Fact:
    """A sentence of a text, a question that the answer continues, and the answer."""

    sentence: str
    question: str
    answer: str


def _one(words: Sequence[str]) -> Callable[[np.random.Generator], str]:
    return lambda by: words[int(by.integers(len(words)))]


# The sentence without its answer, the question, and the answer. {who} is a name and {what} a label that no other fact has.
KINDS: dict[str, tuple[str, str, Callable[[np.random.Generator], str]]] = {
    "person": ("The captain of the {what} is", "Who is the captain of the {what}?", _one(names("test"))),
    "colour": ("{who} painted the front door", "Which colour did {who} paint the front door?", _one(COLOURS)),
    "year": ("{who} was born in the year", "When was {who} born?", lambda by: str(by.integers(1700, 1900))),
    "animal": ("{who} shares a room with a tame", "Which animal lives with {who}?", _one(ANIMALS)),
    "code": ("The number of the locker of {who} is", "Which locker has {who}?", lambda by: str(by.integers(1000, 10000))),
    "place": ("The next letter from {who} will come from", "Where will {who} write from?", _one(PLACES)),
    "work": ("{who} earns a living as a", "What is the trade of {who}?", _one(WORK)),
    "dish": ("{who} would eat nothing all week but", "What does {who} eat?", _one(DISHES)),
}


def facts(count: int, by: np.random.Generator) -> list[Fact]:
    """`count` facts, of every kind in turn, in random order. People and labels differ."""
    people, things = pick(names("test"), count, by), pick(labels("test"), count, by)
    found = []
    for i, (who, what) in enumerate(zip(people, things, strict=True)):
        said, asked, answer = KINDS[list(KINDS)[i % len(KINDS)]]
        value = answer(by)
        said, asked = said.format(who=who, what=what), asked.format(who=who, what=what)
        found.append(Fact(f"{said} {value}.", f"\nQuestion: {asked}\nAnswer: {said}", value))
    return [found[i] for i in by.permutation(count)]


@dataclass(frozen=True)
class FactsOptions:
    """facts: in each text. control: the text is also read without them."""

    facts: int = 8
    control: bool = True


class Facts(TextTask):
    """Facts in real text: the first token, the log-probability (nats) and the text of the answer, and without the facts.

    A text is one observation: the mean of its facts. It is read once, and once without the facts."""

    name = "facts"
    Options = FactsOptions
    levels = (4096, 8192)
    chance = "that without the facts"
    compared = True

    def item(self, reader: Reader, length: int, by: np.random.Generator) -> tuple[str, str, list[Fact]]:
        """The text with the facts, the same text without them, and the facts."""
        made = facts(self.options.facts, by)
        needed = sum(reader.count(fact.sentence + " ") for fact in made) + max(reader.count(fact.question) for fact in made)
        room(self.name, length, needed)
        between = reader.filler(length - needed, by)
        return spread(between, [fact.sentence for fact in made], by), "".join(between), made

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        told, control, made = self.item(reader, length, by)
        out, at = [], {"length": length}
        for text, without in ((told, ""), (control, ", facts removed"))[: 1 + self.options.control]:
            session = reader.read(text)
            scores = np.array([self._scores(reader, session, fact) for fact in made]).mean(0)
            named = zip(("first token", "log-probability", "said"), scores, strict=True)
            out += [Observation(score + without, float(value), dict(at)) for score, value in named]
        return out

    def questions(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Asked]:
        told, _, made = self.item(reader, length, by)
        return [Asked(told + fact.question, [fact.answer]) for fact in made]

    def _scores(self, reader: Reader, session: Session, fact: Fact) -> tuple[float, float, float]:
        asked = reader.asking(session, fact.question)
        ids = reader.tokenizer.encode(f" {fact.answer}")
        assert asked.logits is not None
        first = int(asked.logits[: reader.tokenizer.vocab_size].argmax()) == ids[0]
        likely = float(asked.score(ids).double().sum())
        written = "".join(asked.generate(len(ids) + 2, temperature=0.0))
        return float(first), likely, matched(written, [fact.answer])
