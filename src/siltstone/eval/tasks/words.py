"""Names, nouns and prose of generated documents. Those of training and of test are disjoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

HEADS = "Bar Cal Dor Fen Gar Hal Jor Kel Lam Mar Nor Pel Quin Ros Sal Tor Ul Var Wil Yor".split()
TAILS = "an bert da ek fin gus ia la mond na o rick sa ton ula vin wen xa yan zo".split()
SIZES = (
    "amber brave calm dusty eager faint gentle hollow icy jolly keen lucid mellow noble odd pale quick rusty sour tidy".split()
)
THINGS = "anchor basket candle drum engine feather garden hammer island jacket kettle ladder mirror needle orchard pillow".split()
SUBJECTS = {
    "train": ["A farmer", "The old captain", "One of the guests", "The teacher", "A young painter", "The judge"],
    "test": ["A baker", "The tired clerk", "One of the neighbours", "The doctor", "A quiet sailor", "The widow"],
}
ACTIONS = {
    "train": ["counted", "carried away", "asked about", "sold", "remembered", "described"],
    "test": ["looked at", "talked about", "put down", "paid for", "forgot", "repaired"],
}
ENDS = {
    "train": ["in the early morning", "before the rain began", "near the river", "without a word"],
    "test": ["late in the evening", "after the long winter", "beside the road", "for no clear reason"],
}


def split_of(words: Sequence[str], split: str) -> list[str]:
    """Every second word: the even ones are for training, the odd ones for test."""
    return [word for i, word in enumerate(words) if i % 2 == (split == "test")]


def names(split: str) -> list[str]:
    """200 given names of a split, in a fixed order."""
    return split_of([head + tail for head in HEADS for tail in TAILS], split)


def labels(split: str) -> list[str]:
    """160 labels of a split, such as "rusty-anchor", in a fixed order."""
    return split_of([f"{size}-{thing}" for size in SIZES for thing in THINGS], split)


def pick(words: Sequence[str], count: int, by: np.random.Generator) -> list[str]:
    """`count` different words, in random order."""
    return [words[int(i)] for i in by.choice(len(words), count, replace=False)]


class Prose:
    """An endless supply of sentences: of one book from a random place on, or generated if there are no books."""

    def __init__(self, books: Sequence[str], by: np.random.Generator, split: str = "test") -> None:
        self.by, self.split = by, split
        book = books[int(by.integers(len(books)))] if books else ""
        self.book = [" ".join(x.split()) + " " for x in re.split(r"(?<=[.!?])\s+", book) if x.strip()]
        self.at = int(by.integers(len(self.book))) if self.book else 0

    def sentence(self) -> str:
        """The next sentence, with a space after it."""
        if self.book:
            self.at += 1
            return self.book[(self.at - 1) % len(self.book)]
        parts = [SUBJECTS[self.split], ACTIONS[self.split], split_of(THINGS, self.split), ENDS[self.split]]
        who, did, thing, end = (part[int(self.by.integers(len(part)))] for part in parts)
        return f"{who} {did} the {thing} {end}. "


def spread(sentences: Sequence[str], facts: Sequence[str], by: np.random.Generator, depth: float | None = None) -> str:
    """The sentences with the facts between them, in their order; `depth` 0 to 1: where all of them stand (None: at random)."""
    count = len(sentences)
    places = sorted(by.integers(0, count + 1, len(facts)).tolist()) if depth is None else [round(depth * count)] * len(facts)
    out = []
    for i in range(count + 1):
        out += [fact + " " for fact, place in zip(facts, places, strict=True) if place == i]
        out += sentences[i : i + 1]
    return "".join(out)
