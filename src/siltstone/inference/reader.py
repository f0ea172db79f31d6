"""A session that reads a stream of bytes: counts the bits and the byte offset."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, DataError, SessionCorrupt
from ..io.parse import is_count
from ..text import encode_sized
from .batch import Member
from .receipt import Receipt, Timeline, receipt
from .session import Session

TAIL = 4096  # bytes before the offset whose hash identifies the text on resume
NOTE = "stream"


@dataclass(frozen=True)
class Cost:
    """The cost of a text.

    bits      bits of information (-log2 of the probability)
    bytes     bytes that were scored
    tokens    tokens read
    unscored  bytes of a session's first token, for which there is no prediction
    replaced  bytes that were not text and were read as U+FFFD
    """

    bits: float = 0.0
    bytes: int = 0
    tokens: int = 0
    unscored: int = 0
    replaced: int = 0

    @property
    def bits_per_byte(self) -> float:
        """bits / bytes; nan without bytes."""
        return self.bits / self.bytes if self.bytes else math.nan

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.bits + other.bits,
            self.bytes + other.bytes,
            self.tokens + other.tokens,
            self.unscored + other.unscored,
            self.replaced + other.replaced,
        )


@dataclass(frozen=True)
class Part:
    """One piece of a stream and its tokens.

    began     when it was begun, in seconds
    replaced  bytes that were not text
    blind     tokens without a prediction: 1 for the first of a session; missed: its bytes
    """

    piece: bytes
    ids: list[int]
    began: float
    replaced: int
    blind: int
    missed: int


class Reader:
    """Feeds pieces of bytes to a session, or to a member of a batch: then `encode` and `account` leave the reading to its turns.

    offset      bytes of the source read so far (from its beginning)
    cost        cost of all these bytes, earlier processes included
    timeline    seconds against tokens, of this process
    errors      "strict": bytes that are not UTF-8 text, and zero bytes, raise DataError; "replace": they are read as U+FFFD, and
                each costs 8 more bits, which encode its value: bits per byte remain those of a lossless code

    `save` stores offset and cost in the session's notes, so that `Reader(Session.load(...))` resumes there. What is read chooses
    blocks once in `route_every` tokens: `asking` is set to False.
    """

    def __init__(self, session: Session | Member, errors: str = "strict") -> None:
        self.session, self.errors = session, errors
        session.asking = False
        self.timeline = Timeline()
        self.offset, self.cost, self._tail, self._known = 0, Cost(), b"", ("", 0)
        note = session.notes.get(NOTE)
        if note is not None:
            try:
                self.offset = _count(note["offset"])
                counts = note["bytes"], note["tokens"], note.get("unscored", 0), note.get("replaced", 0)
                self.cost = Cost(_bits(note["bits"]), *map(_count, counts))
                self._known = (_digest(note["tail"]), min(_count(note["tail_bytes"]), self.offset, TAIL))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise SessionCorrupt(f"the session's note of its stream is invalid: {error!r} in {note!r}"[:300]) from None

    def begin(self, offset: int) -> None:
        """Set the position to byte `offset` of another source, or to another byte of the same one; counts restart at 0."""
        if offset != self.offset:
            self.offset, self.cost, self._tail, self._known = offset, Cost(), b"", ("", 0)

    def check(self, source: Any, name: str) -> None:
        """Seek an open file to the offset; DataError unless the bytes before it are those that were read."""
        digest, length = self._known
        source.seek(self.offset - length)
        before = source.read(length)
        if length and hashlib.sha256(before).hexdigest() != digest:
            raise DataError(
                f"{name} is not the text that this session has read up to byte {self.offset:,}: the bytes before it differ; "
                "give the same file, or --offset 0 to read another one from its beginning"
            )
        self._tail = before

    def feed(self, piece: bytes) -> Cost:
        """Read one piece. Raises DataError for bytes that are not text (then nothing of the piece was read), and
        CheckpointError if the model's predictions are nan."""
        part = self.encode(piece)
        return self.account(part, self.session.append_scored(part.ids))

    def encode(self, piece: bytes) -> Part:
        """The tokens of the next piece, which are then read by the session and given to `account`. Raises DataError."""
        began, (text, replaced) = time.perf_counter(), self._decode(piece)
        ids = self.session.tokenizer.encode(text)
        blind = int(self.session.position == 0)  # there is no prediction for the first token of a session
        missed = min(len(piece), encode_sized(self.session.tokenizer, text)[1][0]) if blind and ids else 0
        return Part(piece, ids, began, replaced, blind, missed)

    def account(self, part: Part, scores: Tensor) -> Cost:
        """Count a piece that was read. scores: natural-log probabilities [tokens]. Raises CheckpointError if they are nan."""
        nats = -scores[part.blind :].double()
        if torch.isnan(nats).any():
            raise CheckpointError("the model's predictions are not numbers: its weights are damaged; load another checkpoint")
        size = len(part.piece)
        bits = float(nats.sum()) / math.log(2) + 8 * part.replaced
        cost = Cost(bits, size - part.missed, len(part.ids), part.missed, part.replaced)
        self.offset += size
        self.cost += cost
        self._tail = (self._tail + part.piece)[-TAIL:]
        self.timeline.add(len(part.ids), time.perf_counter() - part.began)
        return cost

    def save(self, path: Any) -> None:
        """Save the session with the offset. Raises StorageError."""
        tail, length = (hashlib.sha256(self._tail).hexdigest(), len(self._tail)) if self._tail else self._known
        self.session.notes[NOTE] = {
            "offset": self.offset,
            "bits": self.cost.bits,
            "bytes": self.cost.bytes,
            "tokens": self.cost.tokens,
            "unscored": self.cost.unscored,
            "replaced": self.cost.replaced,
            "tail": tail,
            "tail_bytes": length,
        }
        self.session.save(path)

    def receipt(self) -> Receipt:
        """The costs so far; see `Receipt`."""
        cost = self.cost
        read = cost.bytes + cost.unscored
        return receipt(self.session, read, cost.bytes, cost.tokens, cost.bits, self.timeline, cost.replaced)

    def _decode(self, piece: bytes) -> tuple[str, int]:
        """The text of a piece, and how many of its bytes were replaced."""
        zero = piece.find(b"\0")
        if zero >= 0 and self.errors == "strict":
            raise DataError(
                f"the input is binary, not text: byte {self.offset + zero} is zero; give UTF-8 text, or --errors replace"
            )
        try:
            text = piece.decode("utf-8")
            return (text.replace("\0", "\ufffd"), text.count("\0")) if zero >= 0 else (text, 0)
        except UnicodeDecodeError as error:
            if self.errors == "replace":
                kept = len(piece.decode("utf-8", "ignore").encode("utf-8"))
                text = piece.decode("utf-8", "replace")
                return text.replace("\0", "\ufffd"), len(piece) - kept + text.count("\0")
            raise DataError(
                f"the input is not valid UTF-8 at byte {self.offset + error.start} ({error.reason}); "
                "convert it to UTF-8 first, or use --errors replace"
            ) from None


def _count(value: Any) -> int:
    if not is_count(value):
        raise ValueError(f"{value!r:.60} is not a count")
    return value


def _bits(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r:.60} is not a number of bits")
    return float(value)


def _digest(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.60} is not a hash")
    return value
