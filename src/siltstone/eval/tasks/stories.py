"""Stories whose facts are spread through book text, with questions of five kinds.  Source: arXiv 2406.10149.

The kinds are those of bAbI (arXiv 1502.05698).

Facts are generated from a small world that is simulated, and keep their order. An answer counts if it ranks first among the
candidates of its kind (mean log-probability of a token), and, apart from that, if the greedy answer contains it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from .base import Asked, Observation, TextTask, room
from .needles import matched
from .reader import Reader
from .words import names, pick, spread

PLACES = ["kitchen", "garden", "office", "bedroom", "hallway", "bathroom"]
OBJECTS = ["apple", "football", "milk"]
SIDES = {"north": "south", "south": "north", "east": "west", "west": "east"}
Story = tuple[list[str], str, str, list[str]]  # facts, question, answer, candidates


class World:
    """Who is where, and where each object has been."""

    def __init__(self, by: np.random.Generator) -> None:
        self.by, self.people = by, pick(names("test"), 4, by)
        self.at = dict.fromkeys(self.people, "")
        self.held: dict[str, str] = {}
        self.path: dict[str, list[str]] = {thing: [] for thing in OBJECTS}
        self.facts: list[str] = []

    def one(self, things: list[str]) -> str:
        """One of them."""
        return things[int(self.by.integers(len(things)))]

    def go(self, who: str) -> None:
        """Someone goes to another place, with everything held."""
        self.at[who] = self.one([p for p in PLACES if p != self.at[who]])
        self.facts.append(f"{who} went to the {self.at[who]}.")
        for thing, holder in self.held.items():
            if holder == who:
                self.path[thing].append(self.at[who])

    def take(self, who: str, thing: str) -> None:
        """Someone takes an object that nobody holds, where it is."""
        if not self.path[thing]:
            self.path[thing].append(self.at[who])
        self.held[thing] = who
        self.facts.append(f"{who} took the {thing} there.")

    def drop(self, who: str, thing: str) -> None:
        """Someone leaves an object."""
        del self.held[thing]
        self.facts.append(f"{who} left the {thing} there.")


def one_fact(by: np.random.Generator) -> Story:
    """Where is this person?"""
    world = World(by)
    for who in world.people + [world.one(world.people) for _ in range(4)]:
        world.go(who)
    who = world.one(world.people)
    return world.facts, f"Where is {who}? {who} is in the", world.at[who], PLACES


def carried(by: np.random.Generator, moves: int) -> World:
    """A world in which each object was taken, and carried to `moves` places while others move about."""
    world = World(by)
    for who in world.people:
        world.go(who)
    carriers = pick(world.people, len(OBJECTS), by)
    for who, thing in zip(carriers, OBJECTS, strict=True):
        world.take(who, thing)
    for _ in range(moves):
        for who in pick(world.people, len(world.people), by):
            world.go(who)
    for who, thing in zip(carriers, OBJECTS, strict=True):
        world.drop(who, thing)
        world.go(who)
    return world


def two_facts(by: np.random.Generator) -> Story:
    """Where is this object?"""
    world = carried(by, 1)
    thing = world.one(OBJECTS)
    return world.facts, f"Where is the {thing}? The {thing} is in the", world.path[thing][-1], PLACES


def three_facts(by: np.random.Generator) -> Story:
    """Where was this object before it came to a place?"""
    world = carried(by, 2)
    thing = world.one(OBJECTS)
    before, last = world.path[thing][-2:]
    asked = f"Where was the {thing} before it came to the {last} for the last time? It was in the"
    return world.facts, asked, before, PLACES


def two_arguments(by: np.random.Generator) -> Story:
    """What lies north of this place?"""
    a, b, c = pick(PLACES, 3, by)
    sides = list(SIDES)
    side = sides[int(by.integers(4))]
    facts = [f"The {a} lies {side} of the {b}.", f"The {b} lies {side} of the {c}."]
    if by.integers(2):
        facts.reverse()
    if by.integers(2):
        return facts, f"What lies {side} of the {b}? It is the", a, PLACES
    return facts, f"What lies {SIDES[side]} of the {b}? It is the", c, PLACES


def three_arguments(by: np.random.Generator) -> Story:
    """Who gave this object to this person?"""
    world = World(by)
    given = []
    for thing in pick(OBJECTS, 3, by):
        giver, taker = pick(world.people, 2, by)
        given.append((giver, thing, taker))
        world.facts.append(f"{giver} gave the {thing} to {taker}.")
        world.go(world.one(world.people))
    giver, thing, taker = given[int(by.integers(len(given)))]
    kind = int(by.integers(3))
    if kind == 0:
        return world.facts, f"Who gave the {thing} to {taker}? It was", giver, world.people
    if kind == 1:
        return world.facts, f"To whom did {giver} give the {thing}? To", taker, world.people
    same = [x for g, x, t in given if (g, t) == (giver, taker)]
    if len(same) > 1:
        return world.facts, f"Who gave the {thing} to {taker}? It was", giver, world.people
    return world.facts, f"What did {giver} give to {taker}? It was the", thing, OBJECTS


class Stories(TextTask):
    """Base of the stories. `make`: facts, question, answer and candidates of one story."""

    make: ClassVar[Callable[..., Story]]

    def item(self, reader: Reader, length: int, by: np.random.Generator) -> tuple[str, str, str, list[str]]:
        """The document, the question, the answer and the candidates."""
        facts, question, answer, candidates = type(self).make(by)
        needed = reader.count(" ".join([*facts, question]))
        room(self.name, length, needed)
        return spread(reader.filler(length - needed, by), facts, by), f"\n{question}", answer, candidates

    def observe(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Observation]:
        document, asked, answer, candidates = self.item(reader, length, by)
        session = reader.read(document)
        ranks = reader.ranks(session, asked, [f" {each}" for each in candidates])
        written = reader.answer(session, asked, reader.count(f" {answer}") + 2)
        at: dict[str, int | str] = {"length": length}
        return [
            Observation("ranked first", float(candidates[int(ranks.argmax())] == answer), at),
            Observation("said", matched(written, [answer]), at),
        ]

    def questions(self, reader: Reader, length: int, item: int, by: np.random.Generator) -> list[Asked]:
        document, asked, answer, candidates = self.item(reader, length, by)
        return [Asked(document + asked, [answer], candidates)]


def _stories(number: int, about: str, make: Callable[..., Story], chance: str = "1 / 6") -> type[Stories]:
    more = {
        "name": f"babilong_qa{number}",
        "make": staticmethod(make),
        "chance": chance,
        "__doc__": about,
        "__module__": __name__,
    }
    return type(f"QA{number}", (Stories,), more)


QA1 = _stories(1, "One supporting fact.", one_fact)
QA2 = _stories(2, "Two supporting facts.", two_facts)
QA3 = _stories(3, "Three supporting facts.", three_facts)
QA4 = _stories(4, "Relations of two arguments.", two_arguments)
QA5 = _stories(5, "Relations of three arguments.", three_arguments, "about 1 / 4")
