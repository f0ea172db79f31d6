"""Questions about the documents of a session: each is asked on a fork, and answered with the passages that were attended to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError, InputError
from ..io.regular import open_regular, reason
from .attending import ASKED, attends
from .chat import NOTE, Chat
from .documents import BETWEEN, Passage, documents, passages, require_unchanged
from .pieces import pieces
from .session import Session

MOST = 5  # passages of an answer
JOINED = 4  # spans of the same length that may be one passage
Span = tuple[int, int]


@dataclass(frozen=True)
class Check:
    """The answer without a passage. changes: whether it is another one; tokens: read and written for it."""

    answer: str
    changes: bool
    tokens: int


def attended(session: Session, among: Sequence[Span] | None = None) -> list[Span] | None:
    """The spans that a session attended to most, at most five; None if its model does not say.

    A span that touches one with more weight belongs to it, up to four spans: a sentence is often cut between two blocks.

    among   spans of the text: blocks outside of all of them do not count (None: all blocks count)
    """
    found = weighed(session, among)
    return None if found is None else [span for span, _ in found]


def decisive(session: Session, among: Sequence[Span] | None = None) -> list[Span] | None:
    """Those of `attended` with at least half of the weight of the one that has most; None if the model does not say."""
    found = weighed(session, among)
    if found is None:
        return None
    return [span for span, weight in found if weight >= found[0][1] / 2]


def weighed(session: Session, among: Sequence[Span] | None = None) -> list[tuple[Span, float]] | None:
    """`attended`, with the largest weight of each span's blocks."""
    found = session.attended()
    if found is None:
        return None
    spans: list[tuple[Span, float]] = []
    for first, end, weight in found:
        if among is not None and not any(first < b and end > a for a, b in among):
            continue
        near = [i for i, ((a, b), _) in enumerate(spans) if first <= b and end >= a]
        joined = min([first, *(spans[i][0][0] for i in near)]), max([end, *(spans[i][0][1] for i in near)])
        if near and joined[1] - joined[0] <= JOINED * (end - first):
            spans[near[0]] = joined, spans[near[0]][1]  # blocks come in the order of their weights
            for i in reversed(near[1:]):
                del spans[i]
        elif len(spans) == MOST:
            break
        else:
            spans.append(((first, end), weight))
    return spans


def told(session: Session) -> list[Span]:
    """The tokens of the session's documents."""
    return [(one.first, one.first + one.tokens) for one in documents(session)]


def quotations(session: Session) -> list[Passage] | None:
    """The passages of its documents that a session attended to most since `watch`; None if its model does not say.

    Raises DataError for a file that changed.
    """
    spans = attended(session, told(session))
    return None if spans is None else passages(session, spans)[:MOST]


def read_prompt(session: Session, text: str) -> None:
    """Read a text that the session continues: its last 256 tokens, and what is written, choose blocks before every token."""
    if not attends(session.model):
        session.append(text)
        return
    ids = session.tokenizer.encode(text)
    session.asking = False
    session.append(ids[:-ASKED])
    session.asking = True
    session.append(ids[-ASKED:])


def begin(session: Session, template: str | None = None) -> None:
    """Read what stands before documents: see `Chat.open`."""
    Chat(session, template=template).open()


def require_text(text: str) -> None:
    """Raises InputError for an empty question."""
    if not text.strip():
        raise InputError("a question is empty; give some text")


class Question:
    """A question to a session that has read documents; the session does not change.

    text        the question
    fork        the session that answers it, after `read`
    template    see `Chat`
    begin       the first words of the answer
    Raises InputError for an empty question, and for a session without documents.
    """

    def __init__(self, session: Session, text: str, template: str | None = None, begin: str = "") -> None:
        if not documents(session):
            raise InputError("the session has read no document; give one: --doc FILE")
        require_text(text)
        self.session, self.text, self.template, self.begin = session, text, template, begin
        self.fork = session.fork()

    def read(self, again: Sequence[Passage] = ()) -> int:
        """Read the question on a fork, after these passages; returns the number of tokens.

        again   the most important first; it is read last, so that it stands next to the question
        The passages are read as a document is: blocks are chosen before every token of the question alone.
        """
        self.fork = self.session.fork()
        if again:
            self.fork.asking = False
            begin(self.fork, self.template)
        for passage in reversed(again):
            self.fork.append(f"{BETWEEN}{passage.text.strip()}")
        self.fork.watch()
        self._chat = Chat(self.fork, template=self.template)
        self._chat.read(self.text, self.begin)
        return self.fork.position - self.session.position

    def write(self, max_new_tokens: int) -> Iterator[str]:
        """The answer in pieces: always the most probable tokens."""
        return self._chat.reply(max_new_tokens, temperature=0.0)

    def passages(self) -> list[Passage] | None:
        """The passages that the answer attended to; None if the model does not say. Raises DataError for a file that changed."""
        return quotations(self.fork)

    def attended_by_question(self) -> list[Passage]:
        """The passages that the question attends to most (`decisive`). Raises InputError if the model does not say."""
        self.read()
        spans = decisive(self.fork, told(self.fork))
        if spans is None:
            raise InputError("this model does not say which passages it attends to, so that they cannot be read again")
        return passages(self.session, spans)

    def check(self, found: Sequence[Passage], answer: str, max_new_tokens: int, again: Sequence[Passage] = ()) -> Iterator[Check]:
        """The answer without each of these passages: read by a session that has read everything else.

        again   the passages that were read again for `answer`; all but the one that is left out are read again here too
        Raises InputError in a conversation, DataError for a file that changed.
        """
        for passage in found:
            other = Question(without(self.session, passage, self.template), self.text, self.template, self.begin)
            other.read([one for one in again if one != passage])
            said = "".join(other.write(max_new_tokens))
            yield Check(said, said != answer, other.fork.position)


def merged(again: Sequence[Passage], found: Sequence[Passage]) -> list[Passage]:
    """The passages that were read again, then those of `found` which overlap none of them; at most five."""
    apart = [one for one in found if all(one.tokens[1] <= x.tokens[0] or one.tokens[0] >= x.tokens[1] for x in again)]
    return [*again, *apart][:MOST]


def without(session: Session, passage: Passage, template: str | None = None) -> Session:
    """A session that has read the documents of another one without a passage. It reads them again: as many tokens.

    A character that the passage has a part of is left out too. Raises InputError for a session that is in a conversation,
    DataError for a document that changed.
    """
    require_documents_alone(session)
    twin = session.fresh()
    begin(twin, template)
    twin.notes |= {key: value for key, value in session.notes.items() if key == "documents"}
    for number, one in enumerate(documents(session)):
        if number:
            twin.append(BETWEEN)
        require_unchanged(one)
        try:
            with open_regular(one.path) as (file, _):
                source = _Without(file, *_whole(file, *passage.bytes)) if number == passage.document else file
                for piece in pieces(source, tokenizer=twin.tokenizer):
                    twin.append(piece.decode("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{one.path} cannot be read: {reason(error)}") from None
    return twin


def require_documents_alone(session: Session) -> None:
    """Raises InputError for a session that is in a conversation: it cannot be read again without a passage."""
    if NOTE in session.notes:
        raise InputError(
            "this session is in a conversation, so that its documents cannot be read again without a passage; "
            "give a session that has read documents alone, or leave out --check"
        )


def _whole(file: Any, first: int, end: int) -> Span:
    """The bytes of an open file from `first` to `end`, with those of the characters that are cut there. The file is at its
    beginning afterwards."""

    def inside(at: int) -> bool:
        """Whether a character of UTF-8 goes on at this byte."""
        file.seek(at)
        return any(byte & 0xC0 == 0x80 for byte in file.read(1))

    while inside(first):
        first -= 1
    while inside(end):
        end += 1
    file.seek(0)
    return first, end


class _Without:
    """An open file without the bytes from `first` to `end`."""

    def __init__(self, file: Any, first: int, end: int) -> None:
        self._file, self._first, self._end = file, first, end

    def read(self, size: int) -> bytes:
        at = self._file.tell()
        if at >= self._first and at < self._end:
            at = self._file.seek(self._end)
        return self._file.read(min(size, self._first - at) if at < self._first else size)


def quoted(passage: Passage, most: int = 300) -> str:
    """A passage in one line, shortened in the middle."""
    text = " ".join(passage.text.split())
    return text if len(text) <= most else f"{text[: most // 2]} […] {text[-most // 2 :]}"
