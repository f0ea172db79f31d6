"""The order of the training text: every row reads parts of documents, one piece a step, in an order given by the seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..io.parse import is_count
from .corpus import Corpus
from .recipe import Recipe


@dataclass
class Piece:
    """The input of one training step.

    ids, targets   int64 [B, T]; targets are the next ids
    reset          bool [B, T]: a part begins at this token from an empty state
    source         int64 [B]: the row from whose final state each row continues (itself, or another row for a foreign start)
    fresh          bool [B]: the row starts from an empty state at its first token, with a random phase; `reset` is not set
    draws          float64 [B]: a number in [0, 1) for each fresh row, from which its phase is computed
    bytes          bytes of text that the targets represent
    """

    ids: np.ndarray
    targets: np.ndarray
    reset: np.ndarray
    source: np.ndarray
    fresh: np.ndarray
    draws: np.ndarray
    bytes: int


class Rows:
    """The places of all rows in a corpus.

    Parts are taken in a new random order each epoch. A row at the end of its part takes the next part, also in the middle of a
    piece. All random choices are functions of the seed and of a part's index in the order, so that a resumed run needs only the
    `cursor`.
    """

    def __init__(self, corpus: Corpus, recipe: Recipe) -> None:
        self._corpus, self._recipe = corpus, recipe
        self._parts = corpus.parts(recipe.part)
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        self._dealt = 0
        self._at = [[0, 0] for _ in range(recipe.batch)]

    def cursor(self) -> dict[str, Any]:
        """The places of the rows, ready for JSON."""
        return {"dealt": self._dealt, "at": [list(a) for a in self._at]}

    def check(self, cursor: Any) -> None:
        """ValueError unless `cursor` is valid for this corpus and batch."""
        at = cursor.get("at") if isinstance(cursor, dict) else None
        fits = at is not None and is_count(cursor.get("dealt")) and isinstance(at, list) and len(at) == self._recipe.batch
        fits = fits and all(isinstance(pair, list) and len(pair) == 2 and all(map(is_count, pair)) for pair in at or ())
        if not fits or any(not begin <= end < len(self._corpus.ids) for begin, end in at or ()):
            raise ValueError("has no valid places of the rows in the text of this run")

    def seek(self, cursor: dict[str, Any]) -> None:
        """Set the places of the rows to `cursor`. Raises ValueError if it is not valid for this corpus."""
        self.check(cursor)
        self._dealt, self._at = cursor["dealt"], [list(a) for a in cursor["at"]]

    def _deal(self, column: int) -> tuple[int, int, np.random.Generator]:
        """Begin and end of the next part for a row at `column`, and the generator for its random choices.

        A part that begins inside a piece is extended to the end of a piece if its document is long enough, so that the next
        part begins at the start of a piece.
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
                    if first and filled == 0:  # rows start at different places of their first parts, so that ends are spread
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
        """A part begins in `row` at `column`: from an empty state, or from the state of another text (foreign).

        Inside a piece only the row's own state is available; a foreign start then continues from it.
        """
        rows = self._recipe.batch
        foreign = choices.random() < self._recipe.foreign and not first
        if foreign and column == 0 and rows > 1:
            piece.source[row] = (row + 1 + int(choices.integers(rows - 1))) % rows
        elif not foreign and column == 0:
            piece.fresh[row], piece.draws[row] = True, choices.random()
        elif not foreign:
            piece.reset[row, column] = True
