"""Documents that a session has read: which tokens came from which bytes of which file.

A document is read in pieces whose ids do not depend on the text around them (`pieces`), so that the tokens of any place are found
again from the file, from the nearest of a few marks on. The session's notes have the marks, and the file's path, size and hash.
"""

from __future__ import annotations

import bisect
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import DataError, InputError, SessionCorrupt
from ..io.parse import is_count
from ..io.regular import open_regular, reason
from ..text import encode_sized, read_blocks
from .pieces import pieces
from .session import Session

NOTE, BETWEEN = "documents", "\n\n"
MARKS, SPACING = 64, 4096  # maximum marks of a document; bytes between two at least


@dataclass
class Document:
    """A file that was read.

    path, size, sha256  of the file
    first, tokens       position of its first token in the session, and its number of tokens
    read, lines         bytes that were read, and line ends in them
    marks               places [token, byte, line ends before it], counted from the beginning of the file
    """

    path: str
    size: int
    sha256: str
    first: int = 0
    tokens: int = 0
    read: int = 0
    lines: int = 0
    marks: list[list[int]] = field(default_factory=list)

    def add(self, piece: bytes, tokens: int) -> None:
        """Count a piece that was read."""
        spacing = max(SPACING, self.size // (MARKS // 2))
        if not self.marks or self.read - self.marks[-1][1] >= spacing:
            self.marks.append([self.tokens, self.read, self.lines])
        self.tokens, self.read, self.lines = self.tokens + tokens, self.read + len(piece), self.lines + piece.count(b"\n")


@dataclass(frozen=True)
class Passage:
    """A place of a document.

    document    its number, from 0; path: of the file
    tokens      first and end position in the session
    bytes       first and end byte in the file; lines: first and last line, from 1
    text        a quotation, whole characters only
    """

    document: int
    path: str
    tokens: tuple[int, int]
    bytes: tuple[int, int]
    lines: tuple[int, int]
    text: str


def surveyed(path: str | os.PathLike[str]) -> Document:
    """A document that is to be read. Raises DataError for a file that cannot be read, is empty or is not text."""
    digest, size, name = hashlib.sha256(), 0, os.fspath(path)
    try:
        with open_regular(name) as (file, _):
            source: Any = _Tapped(file, digest.update)
            for _ in read_blocks(source, name):
                pass
            size = file.tell()
    except OSError as error:
        raise DataError(f"{name} cannot be read: {reason(error)}; give text files") from None
    return Document(os.path.abspath(name), size, digest.hexdigest())


def documents(session: Session) -> list[Document]:
    """The documents of a session's notes. Raises SessionCorrupt for invalid ones."""
    return [_of(note) for note in _notes(session)]


def under(session: Session) -> bool:
    """Whether a session stands behind documents, so that a question can follow."""
    return bool(_notes(session))


def lacking(session: Session, given: Sequence[Document]) -> list[Document]:
    """Which of the documents the session has yet to read: the rest of one, and later ones.

    Raises DataError if one is not the document that the session has read at its place.
    """
    known = documents(session)
    for theirs, ours in zip(given, known, strict=False):
        if theirs.sha256 != ours.sha256:
            same = theirs.path == ours.path
            what = f"{theirs.path} has changed since the session read it" if same else f"{theirs.path} is not {ours.path}"
            raise DataError(
                f"{what} ({ours.size:,} bytes then, {theirs.size:,} now); "
                "begin a new session for it, or leave the documents out to ask about those that were read"
            )
    if len(known) < len(given):
        return [*(x for x in known[-1:] if x.read < x.size), *given[len(known) :]]
    return [x for x in known[-1:] if x.read < x.size]


def changed(document: Document) -> bool:
    """Whether the file is no longer what was read."""
    try:
        return surveyed(document.path).sha256 != document.sha256
    except DataError:
        return True


def require_unchanged(document: Document) -> None:
    """Raises DataError if the file is no longer what was read."""
    if changed(document):
        raise DataError(f"{document.path} has changed since the session read it, or a part of it; begin a new session for it")


def read(session: Session, document: Document) -> Iterator[int]:
    """Read a document, or the rest of it; yields the number of bytes of it that were read so far.

    It may be left at any piece, and continued later; the notes are right at every yield. Raises DataError for a file that changed
    in between, InputError for a session that has read other text since. Documents are read with blocks chosen once in
    `route_every` tokens: `asking` is False afterwards.
    """
    session.asking = False
    notes = session.notes.setdefault(NOTE, [])
    if document.read == 0:
        if notes:
            session.append(BETWEEN)
        document.first = session.position
        notes.append(asdict(document))
    elif session.position != document.first + document.tokens:
        raise InputError(f"{document.path} was read in part, and then other text was; begin a new session")
    else:
        require_unchanged(document)
    for piece, text in _pieces(session, document, document.read):
        ids = session.tokenizer.encode(text)
        session.append(ids)
        document.add(piece, len(ids))
        notes[-1] = asdict(document)
        yield document.read
    if document.read != document.size or changed(document):
        raise DataError(f"{document.path} changed while it was read; begin a new session for it")


def passages(session: Session, spans: Sequence[tuple[int, int]]) -> list[Passage]:
    """The places of documents at these token positions [first, end), in the order given.

    A span over several documents has a passage in each; one outside of all has none. Raises DataError for a file that changed.
    """
    places = []
    for first, end in spans:
        for number, one in enumerate(documents(session)):
            a, b = max(first, one.first) - one.first, min(end, one.first + one.tokens) - one.first
            if a < b:
                places.append((number, one, (a, b)))
    for one in {number: one for number, one, _ in places}.values():
        require_unchanged(one)
    return [_located(session, *place) for place in places]


def _located(session: Session, number: int, one: Document, span: tuple[int, int]) -> Passage:
    at = max(0, bisect.bisect_right([mark[0] for mark in one.marks], span[0]) - 1)
    token, byte, line = one.marks[at]
    places, begun, held = [0, 0], byte, b""
    lines = line
    for piece, text in _pieces(session, one, byte):
        sizes = encode_sized(session.tokenizer, text)[1]
        if token + len(sizes) > span[0]:  # a piece with a part of the passage
            held += piece
            for i, place in enumerate(span):
                if token <= place <= token + len(sizes):
                    places[i] = byte + sum(sizes[: place - token])
        else:
            begun, lines = byte + len(piece), lines + piece.count(b"\n")
        token, byte = token + len(sizes), byte + len(piece)
        if token >= span[1]:
            break
    first, end = (place - begun for place in places)
    quoted = held[first:end]
    before = lines + held[:first].count(b"\n") + 1
    return Passage(
        number,
        one.path,
        (one.first + span[0], one.first + span[1]),
        (places[0], places[1]),
        (before, before + quoted.rstrip(b"\n").count(b"\n")),
        quoted.decode("utf-8", "ignore"),
    )


def _pieces(session: Session, document: Document, at: int) -> Iterator[tuple[bytes, str]]:
    """The pieces of a file from a byte on where a piece begins, as bytes and text."""
    try:
        with open_regular(document.path) as (file, size):
            if size != document.size:
                raise DataError(f"{document.path} has changed: it has {size:,} bytes, and had {document.size:,} when it was read")
            file.seek(at)
            for piece in pieces(file, tokenizer=session.tokenizer):
                yield piece, piece.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{document.path} cannot be read: {reason(error)}") from None


class _Tapped:
    """A file whose content goes to a function too as it is read."""

    def __init__(self, file: Any, tap: Any) -> None:
        self._file, self._tap = file, tap

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._tap(data)
        return data


def _notes(session: Session) -> list[Any]:
    found = session.notes.get(NOTE, [])
    if not isinstance(found, list):
        raise SessionCorrupt(f"the session's note of its documents is invalid: {found!r}"[:300])
    return found


def _of(note: Any) -> Document:
    names = [x.name for x in fields(Document)]
    right = isinstance(note, dict) and note.keys() == {*names}
    right = right and isinstance(note["path"], str) and isinstance(note["sha256"], str) and isinstance(note["marks"], list)
    right = right and all(is_count(note[name]) for name in ("size", "first", "tokens", "read", "lines"))
    right = right and all(isinstance(x, list) and len(x) == 3 and all(map(is_count, x)) for x in note["marks"])
    if not right or note["read"] > note["size"] or bool(note["marks"]) != bool(note["read"]):
        raise SessionCorrupt(f"the session's note of a document is invalid: {note!r}"[:300])
    return Document(**{name: note[name] for name in names})
