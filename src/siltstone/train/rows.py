"""Which row reads what, when: every row walks through parts of documents, one piece a step, in an order fixed by the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..io.parse import is_count
from .corpus import Corpus
from .recipe import Recipe


@dataclass
class Piece:
    """What one step trains on.

    ids, targets   int64 [B, T]; targets are the ids that follow
    reset          bool [B, T]: a part begins here from an empty state
    source         int64 [B]: the row whose final state each row goes on from (its own, or for a foreign start another's)
    fresh          bool [B]: the row begins anew at its first token, with a segment phase of its own (`reset` is then not set)
    draws          float64 [B]: a number in [0, 1) for each fresh row, from which its phase is made
    bytes          bytes of text that the targets stand for
    """

    ids: np.ndarray
    targets: np.ndarray
    reset: np.ndarray
    source: np.ndarray
    fresh: np.ndarray
    draws: np.ndarray
    bytes: int


class Rows:
    """The rows' walk through a corpus.

    The parts are dealt in a new random order each epoch; a row that comes to the end of its part takes the next one, in
    the middle of a piece if need be. All choices are functions of the seed and of a part's place in the order, so the
    `cursor` is all that a resumed run needs.
    """

    def __init__(self, corpus: Corpus, recipe: Recipe) -> None:
        self._corpus, self._recipe = corpus, recipe
        self._parts = corpus.parts(recipe.part)
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        self._dealt = 0
        self._at = [[0, 0] for _ in range(recipe.batch)]

    def cursor(self) -> dict[str, Any]:
        """Where the rows stand, ready for JSON."""
        return {"dealt": self._dealt, "at": [list(a) for a in self._at]}

    def check(self, cursor: Any) -> None:
        """ValueError unless `cursor` is a place that rows of this corpus can stand at."""
        at = cursor.get("at") if isinstance(cursor, dict) else None
        fits = at is not None and is_count(cursor.get("dealt")) and isinstance(at, list) and len(at) == self._recipe.batch
        fits = fits and all(isinstance(pair, list) and len(pair) == 2 and all(map(is_count, pair)) for pair in at or ())
        if not fits or any(not begin <= end < len(self._corpus.ids) for begin, end in at or ()):
            raise ValueError("has no places of the rows in the text of this run")

    def seek(self, cursor: dict[str, Any]) -> None:
        """Stand where `cursor` was taken. Raises ValueError for another corpus's."""
        self.check(cursor)
        self._dealt, self._at = cursor["dealt"], [list(a) for a in cursor["at"]]

    def _deal(self, column: int) -> tuple[int, int, np.random.Generator]:
        """Begin and end of the next part for a row at `column`, and the generator of the choices that go with it.

        A part that begins inside a piece goes on to a piece's end, if its document is long enough, so that the next one
        begins with a piece.
        """
        epoch, index = divmod(self._dealt, len(self._parts))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._random(1, epoch).permutation(len(self._parts))
        choices = self._random(2, self._dealt)
        self._dealt += 1
        begin, end, limit = map(int, self._parts[self._order[index]])
        return begin, min(limit, end + -column % self._recipe.length), choices

    def _random(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self._recipe.seed, purpose, number])

    def next(self) -> Piece:
        """The next piece of every row."""
        rows, length = self._recipe.batch, self._recipe.length
        first = self._dealt == 0
        piece = Piece(
            ids=np.zeros((rows, length), np.int64),
            targets=np.zeros((rows, length), np.int64),
            reset=np.zeros((rows, length), bool),
            source=np.arange(rows),
            fresh=np.zeros(rows, bool),
            draws=np.zeros(rows),
            bytes=0,
        )
        for row in range(rows):
            filled = 0
            while filled < length:
                begin, end = self._at[row]
                if begin == end:
                    begin, end, choices = self._deal(filled)
                    if first and filled == 0:  # rows begin at different places of their first parts, so as not to march in step
                        begin += (end - begin) * row // rows // length * length
                    self._begin(piece, row, filled, choices, first)
                n = min(length - filled, end - begin)
                piece.ids[row, filled : filled + n] = self._corpus.ids[begin : begin + n]
                piece.targets[row, filled : filled + n] = self._corpus.ids[begin + 1 : begin + n + 1]
                piece.bytes += self._corpus.bytes_of(begin + 1, begin + n + 1)
                filled += n
                self._at[row] = [begin + n, end]
        return piece

    def _begin(self, piece: Piece, row: int, column: int, choices: np.random.Generator, first: bool) -> None:
        """A part begins in `row` at `column`: from nothing, or from the state that another text left.

        Inside a piece the only state at hand is the row's own, which is then the one that is kept.
        """
        rows = self._recipe.batch
        foreign = choices.random() < self._recipe.foreign and not first
        if foreign and column == 0 and rows > 1:
            piece.source[row] = (row + 1 + int(choices.integers(rows - 1))) % rows
        elif not foreign and column == 0:
            piece.fresh[row], piece.draws[row] = True, choices.random()
        elif not foreign:
            piece.reset[row, column] = True
