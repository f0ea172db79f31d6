"""Facts of eight kinds, strewn in real text and asked at its end; the same text without them is the control."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import InputError
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


# The answer, and wordings: the sentence without its answer, and the question. {who} is a name and {what} a label that no other
# fact has.
KINDS: dict[str, tuple[Callable[[np.random.Generator], str], tuple[tuple[str, str], ...]]] = {
    "person": (
        _one(names("test")),
        (
            ("The captain of the {what} is", "Who is the captain of the {what}?"),
            ("The judges gave the {what} to", "Who got the {what}?"),
            ("Nobody has seen the {what} but", "Who has seen the {what}?"),
        ),
    ),
    "colour": (
        _one(COLOURS),
        (
            ("{who} painted the front door", "Which colour did {who} paint the front door?"),
            ("The umbrella of {who} is", "Which colour is the umbrella of {who}?"),
            ("{who} dyed the heavy curtains", "Which colour did {who} dye the curtains?"),
        ),
    ),
    "year": (
        lambda by: str(by.integers(1700, 1900)),
        (
            ("{who} was born in the year", "When was {who} born?"),
            ("The house of {who} dates from", "When was the house of {who} built?"),
            ("{who} moved to the coast in", "When did {who} move to the coast?"),
        ),
    ),
    "animal": (
        _one(ANIMALS),
        (
            ("{who} shares a room with a tame", "Which animal lives with {who}?"),
            ("At the fair {who} bought a young", "Which animal did {who} buy?"),
            ("Only {who} dares to feed the old", "Which animal does {who} feed?"),
        ),
    ),
    "code": (
        lambda by: str(by.integers(1000, 10000)),
        (
            ("The number of the locker of {who} is", "Which locker has {who}?"),
            ("{who} opens the safe with the digits", "Which digits open the safe of {who}?"),
            ("The telephone of {who} has the extension", "Which extension has {who}?"),
        ),
    ),
    "place": (
        _one(PLACES),
        (
            ("The next letter from {who} will come from", "Where will {who} write from?"),
            ("{who} spent the whole winter in", "Where did {who} spend the winter?"),
            ("The parents of {who} still live in", "Where do the parents of {who} live?"),
        ),
    ),
    "work": (
        _one(WORK),
        (
            ("{who} earns a living as a", "What is the trade of {who}?"),
            ("For twenty years {who} has been a", "What is {who} by profession?"),
            ("The only son of {who} became a", "What did the son of {who} become?"),
        ),
    ),
    "dish": (
        _one(DISHES),
        (
            ("{who} would eat nothing all week but", "What does {who} eat?"),
            ("To the feast {who} brought", "What did {who} bring to the feast?"),
            ("{who} always orders a plate of", "What does {who} order?"),
        ),
    ),
}
WORDINGS = min(len(wordings) for _, wordings in KINDS.values())


def facts(count: int, by: np.random.Generator, wordings: int = WORDINGS) -> list[Fact]:
    """`count` facts, of every kind in turn, in random order. People and labels differ.

    wordings    of a kind, from which one is drawn for each fact. Raises InputError outside of 1 to 3.
    """
    if not 1 <= wordings <= WORDINGS:
        raise InputError(f"wordings={wordings!r:.40} must be from 1 to {WORDINGS}")
    people, things = pick(names("test"), count, by), pick(labels("test"), count, by)
    found = []
    for i, (who, what) in enumerate(zip(people, things, strict=True)):
        answer, ways = KINDS[list(KINDS)[i % len(KINDS)]]
        said, asked = ways[int(by.integers(wordings)) if wordings > 1 else 0]
        value = answer(by)
        said, asked = said.format(who=who, what=what), asked.format(who=who, what=what)
        found.append(Fact(f"{said} {value}.", f"\nQuestion: {asked}\nAnswer: {said}", value))
    return [found[i] for i in by.permutation(count)]


@dataclass(frozen=True)
class FactsOptions:
    """facts: in each text. control: the text is also read without them. wordings: of a kind of facts; one is drawn for each."""

    facts: int = 8
    control: bool = True
    wordings: int = WORDINGS


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
        made = facts(self.options.facts, by, self.options.wordings)
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
