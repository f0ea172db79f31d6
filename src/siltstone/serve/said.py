"""The ids that sessions have read and written, so that their text can be searched. Equal texts are kept once."""

from __future__ import annotations

import bisect
import hashlib
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..text import Tokenizer
from .index import Index

AROUND = 80  # bytes of the text on each side of a place


@dataclass(frozen=True)
class Part:
    """A text that is kept without gaps: its ids, and the position of the first one in the session."""

    first: int
    ids: Sequence[int]


class Said:
    """The texts of sessions. What is added and removed belongs to the transaction that the caller is in."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def add(self, of: str, first: int, ids: Sequence[int]) -> None:
        """A session has read these ids from a position on."""
        if not ids:
            return
        raw = array("i", ids).tobytes()
        digest = hashlib.sha256(raw).hexdigest()
        self._index.do("INSERT OR IGNORE INTO texts (digest, ids) VALUES (?, ?)", (digest, zlib.compress(raw, 1)))
        self._index.do("INSERT INTO said (of, first, digest) VALUES (?, ?, ?)", (of, first, digest))

    def copy(self, of: str, to: str) -> None:
        """A fork has the same text."""
        self._index.do("INSERT INTO said (of, first, digest) SELECT ?, first, digest FROM said WHERE of = ?", (to, of))

    def cut(self, of: str, position: int = 0) -> None:
        """Forget what a session has read from a position on. A text was read as a whole or not at all."""
        gone = self._index.do("DELETE FROM said WHERE of = ? AND first >= ? RETURNING digest", (of, position))
        for (digest,) in gone:
            self._index.do("DELETE FROM texts WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM said WHERE digest = ?1)", (digest,))

    def parts(self, of: str) -> list[Part]:
        """The kept text of a session; there are gaps where it was read before its file was uploaded."""
        ask = "SELECT first, ids FROM said JOIN texts USING (digest) WHERE of = ? ORDER BY first"
        found: list[tuple[int, array[int]]] = []
        for first, packed in self._index.do(ask, (of,)):
            ids = array("i", zlib.decompress(packed))
            if found and found[-1][0] + len(found[-1][1]) == first:
                found[-1][1].extend(ids)
            else:
                found.append((first, ids))
        return [Part(*one) for one in found]


class Spelt:
    """A part as bytes: what stands where."""

    def __init__(self, tokenizer: Tokenizer, part: Part) -> None:
        pieces = [tokenizer.token_bytes(id_) for id_ in part.ids]
        self.first, self.text = part.first, b"".join(pieces)
        self._ends = list(accumulate(map(len, pieces)))

    def places(self, wanted: bytes) -> Iterator[tuple[int, int]]:
        """First and end byte of each place that has these bytes; places do not overlap."""
        at = self.text.find(wanted)
        while at >= 0:
            yield at, at + len(wanted)
            at = self.text.find(wanted, at + len(wanted))

    def bytes_of(self, first: int, end: int) -> tuple[int, int] | None:
        """The bytes of tokens at positions [first, end); None if the part has none of them."""
        a, b = (min(max(x - self.first, 0), len(self._ends)) for x in (first, end))
        return (self._ends[a - 1] if a else 0, self._ends[b - 1]) if a < b else None

    def shown(self, first: int, end: int) -> dict[str, Any]:
        """A place as clients see it: positions of its tokens, its text, and the text around it."""
        tokens = bisect.bisect_right(self._ends, first), bisect.bisect_left(self._ends, end) + 1

        def text(a: int, b: int) -> str:
            return self.text[max(0, a) : b].decode("utf-8", "ignore")

        return {
            "first": self.first + tokens[0],
            "end": self.first + tokens[1],
            "text": text(first, end),
            "before": text(first - AROUND, first),
            "after": text(end, end + AROUND),
        }


def found(tokenizer: Tokenizer, parts: Sequence[Part], wanted: str, most: int) -> list[dict[str, Any]]:
    """The first `most` places that have a text."""
    out: list[dict[str, Any]] = []
    for part in parts:
        spelt = Spelt(tokenizer, part)
        for place in spelt.places(wanted.encode("utf-8")):
            if len(out) == most:
                return out
            out.append(spelt.shown(*place))
    return out


def weighed(
    tokenizer: Tokenizer, parts: Sequence[Part], spans: Sequence[tuple[int, int, float]], most: int
) -> list[dict[str, Any]]:
    """The places of the spans [(first, end, weight)], `most` at most; one whose text is not kept has none."""
    known, out = [Spelt(tokenizer, part) for part in parts], []
    for first, end, weight in spans[:most]:
        places = [(one, place) for one in known if (place := one.bytes_of(first, end)) is not None]
        shown = places[0][0].shown(*places[0][1]) if places else {"text": None, "before": None, "after": None}
        out.append(shown | {"first": first, "end": end, "weight": weight})
    return out
