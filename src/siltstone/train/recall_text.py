"""Training text that needs memory: prose with passages repeated at a distance, and facts that are told and asked later.

Three things are put between the sentences of the given books:

- passages: 40 to 600 bytes of what came before, once more;
- facts: a carrier and a value ("The colour of the gate was amber."), and later the carrier and the value again;
- lists: lines of a key and a value, and later single lines again.

The carriers are written here or taken from the books, the values are random syllables, digits and words of the books. None of
the carriers, names and labels of the evaluation (`siltstone.eval.tasks`) is among them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..eval.tasks.words import HEADS, TAILS, labels, names
from ..io import write_text
from ..io.atomic import make_folder

CARRIERS = """
They call me
I was christened
The stranger was known as
The ship was called
Her brother is
The key lies under the
The word for the gate is
You will find it at number
The colour of the door was
His sister's name was
We met at
The letter was signed by
The dog answers to
The answer to the riddle is
The train leaves from
The secret sign is
The village is called
He who led the guard was
In the box there was a
The address is
Her favourite flower was the
The treasure is buried at
The doctor's name is
You may ask for
The book was written by
The price was
The street is called
""".strip().splitlines()
LETTERS = ("bcdfghjklmnprstvwz", "aeiou")


@dataclass(frozen=True)
class Amounts:
    """Shares of the bytes that are repeated, told or listed, and the farthest distances.

    repeats    passages
    facts      facts, told and asked
    lists      lists and their lines
    near, far  distances in bytes between the two places of a passage or a fact, drawn so that every scale is as likely
    """

    repeats: float = 0.35
    facts: float = 0.15
    lists: float = 0.1
    near: int = 20
    far: int = 12_000

    def __post_init__(self) -> None:
        shares = (self.repeats, self.facts, self.lists)
        if any(not 0 <= share < 1 for share in shares) or sum(shares) > 0.9:
            raise InputError(f"the shares {shares} must be from 0 to 0.9 together, for example 0.35, 0.15 and 0.1")
        if not 0 < self.near < self.far:
            raise InputError(f"near={self.near} and far={self.far} must be above 0, the first below the second")


class Writer:
    """Writes one endless text from books. Equal seeds write equal texts."""

    def __init__(self, books: Sequence[str], by: np.random.Generator, amounts: Amounts | None = None) -> None:
        if not any(book.strip() for book in books):
            raise InputError("the books are empty; give at least one with text")
        self.books, self.by, self.amounts = [book for book in books if book.strip()], by, amounts or Amounts()
        self.text = ""
        self._due: list[tuple[int, str]] = []  # place in bytes, what is asked there
        self._banned = {*names("test"), *labels("test")}
        self._open()

    def _open(self) -> None:
        """Begins to read a book at a random place."""
        self._book = self.books[int(self.by.integers(len(self.books)))]
        self._at = int(self.by.integers(len(self._book)))

    def _sentence(self) -> str:
        """The next sentence or two of the book, at most 800 characters."""
        if self._at >= len(self._book) or self.by.random() < 0.002:
            self._open()
        stop = re.compile(r"[.!?][\"')]*\s+").search(self._book, self._at + 60, self._at + 800)
        end = stop.end() if stop else min(len(self._book), self._at + 400)
        out, self._at = self._book[self._at : end], end
        return out

    def _distance(self) -> int:
        near, far = self.amounts.near, self.amounts.far
        return int(near * (far / near) ** self.by.random())

    def _word(self) -> str:
        """A value: syllables, a name, digits, or words of the books."""
        kind = int(self.by.integers(5))
        if kind == 0:
            return str(self.by.integers(10 ** int(self.by.integers(2, 8))))
        if kind == 1:
            at = int(self.by.integers(len(self._book)))
            found = re.findall(r"[A-Za-z]+", self._book[at : at + 120])[1:-1]
            return " ".join(found[: int(self.by.integers(1, 4))]) or "nothing"
        if kind == 2:
            return self._name()
        made = "".join(LETTERS[i % 2][int(self.by.integers(len(LETTERS[i % 2])))] for i in range(int(self.by.integers(3, 9))))
        return made.capitalize() if kind == 3 else made

    def _name(self) -> str:
        """A name of the training half, or a new one that the evaluation does not have."""
        while True:
            made = str(self.by.choice(HEADS)) + str(self.by.choice([*LETTERS[1]])) + str(self.by.choice(TAILS))
            found = str(self.by.choice(names("train"))) if self.by.random() < 0.5 else made
            if found not in self._banned:
                return found

    def _carrier(self) -> str:
        """One of the carriers, or some words of a book."""
        if self.by.random() < 0.5:
            return str(self.by.choice(CARRIERS))
        at = int(self.by.integers(len(self._book)))
        found = self._book[at : at + 90].split()[1:-1]
        return " ".join(found[: int(self.by.integers(3, 8))]).strip().capitalize() or str(self.by.choice(CARRIERS))

    def _later(self, what: str, distance: int) -> None:
        self._due.append((len(self.text) + distance, what))

    def _fact(self) -> str:
        carrier, value = self._carrier(), self._word()
        end = str(self.by.choice([".", ".", ".", ";", "!"]))
        for _ in range(int(self.by.integers(1, 3))):
            self._later(str(self.by.choice(["", "\n", "\n\n"])) + f"{carrier} {value}{end} ", self._distance())
        return f"{carrier} {value}{end} "

    def _list(self) -> str:
        mark = str(self.by.choice([":", " =", ",", " ->"]))
        lines = [f"{self._word()}{mark} {self._word()}\n" for _ in range(int(self.by.integers(2, 10)))]
        for line in lines:
            if self.by.random() < 0.5:
                self._later(line, self._distance())
        return "\n" + "".join(lines)

    def _passage(self) -> str:
        """Some of what came before, from the beginning of a word on."""
        size = int(self.by.integers(40, 600))
        begin = max(0, len(self.text) - self._distance() - size)
        begin = self.text.find(" ", begin) + 1
        return self.text[begin : begin + size].rpartition(" ")[0] + " "

    def write(self) -> str:
        """The next few hundred bytes."""
        amounts, drawn, out = self.amounts, self.by.random(), ""
        for due in [due for due in self._due if due[0] <= len(self.text)]:
            self._due.remove(due)
            out += due[1]
        # a passage has about 320 bytes, a fact 35 and again 50, a list 100 and again 50, a sentence 110
        sizes, shares = (320, 85, 150), (amounts.repeats, amounts.facts, amounts.lists)
        often = [110 * share / size / (1 - sum(shares)) for share, size in zip(shares, sizes, strict=True)]
        scaled = np.cumsum(often) / (1 + sum(often))
        kinds = (self._passage, self._fact, self._list)
        made = next((kind for kind, limit in zip(kinds, scaled, strict=True) if drawn < limit), self._sentence)
        out += made()
        self.text += out
        return out


def documents(
    books: Sequence[str], size: int, each: int = 1 << 20, seed: int = 0, amounts: Amounts | None = None
) -> Iterator[str]:
    """Texts of about `each` characters, `size` in all."""
    made = 0
    while made < size:
        writer = Writer(books, np.random.default_rng([seed, made // each]), amounts)
        while len(writer.text) < min(each, size - made):
            writer.write()
        made += len(writer.text)
        yield writer.text


def write_documents(files: Sequence[Path], share: float, folder: Path, seed: int) -> list[Path]:
    """Writes documents from the books `files` to `folder` until they are `share` of the bytes of both; returns their files.

    Raises InputError unless the share is above 0 and at most 0.9.
    """
    if not 0 < share <= 0.9:
        raise InputError(f"recall={share!r} must be above 0 and at most 0.9: the share of text that needs memory")
    books = [path.read_text("utf-8") for path in files]
    size = int(sum(map(len, books)) * share / (1 - share))
    out = []
    for number, text in enumerate(documents(books, size, seed=seed)):
        out.append(make_folder(folder) / f"recall-{number:04}.txt")
        write_text(out[-1], text)
    return out
