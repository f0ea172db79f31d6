"""Passages before a question: those that BM25 chose, without the rest of the text, or those that the question attends to."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from ..errors import InputError
from ..inference.asking import MOST, decisive
from ..inference.session import Session
from .tasks.reader import Reader

PASSAGE = 64  # tokens of a passage
LACKING = "BM25 needs a package: pip install 'siltstone[eval]'"


def bm25(texts: Sequence[str], question: str) -> list[int] | None:
    """The five texts that BM25 ranks first, as numbers; None without the package bm25s."""
    try:
        library = importlib.import_module("bm25s")
    except ImportError:
        return None
    index, quiet = library.BM25(), {"show_progress": False}
    words, asked = (library.tokenize(list(x), stopwords="en", **quiet) for x in (texts, [question]))
    if not any(words.ids) or not any(asked.ids):
        return []
    index.index(words, **quiet)
    places, _ = index.retrieve(asked, k=min(MOST, len(texts)), backend_selection="numpy", **quiet)
    return [int(place) for place in places[0]]


class Retrieved:
    """A text as a session that reads five passages of it, in their order, before the first question; `append` it to a fork."""

    def __init__(self, reader: Reader, passages: Sequence[str]) -> None:
        self._reader, self._passages = reader, passages
        self._session: Session | None = None

    def fork(self) -> Retrieved:
        """The same text, before any question."""
        return Retrieved(self._reader, self._passages)

    def append(self, question: str) -> None:
        """Choose passages by the question, and read them and it. Raises InputError without the package bm25s."""
        found = bm25(self._passages, question)
        if found is None:
            raise InputError(f"{LACKING}, or leave out the arm bm25")
        self._session = Session(self._reader.model, self._reader.tokenizer)
        self._session.append("".join(self._passages[i] for i in sorted(found)) + question)

    @property
    def _asked(self) -> Session:
        if self._session is None:
            raise InputError("passages are chosen by a question, and none was asked; append one to a fork")
        return self._session

    @property
    def logits(self) -> Tensor | None:
        """Those after the question."""
        return self._asked.logits

    def score(self, text: Any) -> Tensor:
        """See Session."""
        return self._asked.score(text)

    def generate(self, *given: Any, **keys: Any) -> Iterator[str]:
        """See Session."""
        return self._asked.generate(*given, **keys)


class RetrievalReader(Reader):
    """A reader whose texts are cut to passages of 64 tokens."""

    def read(self, text: str) -> Any:
        """The passages; nothing is read."""
        ids = self.tokenizer.encode(text)
        return Retrieved(self, [self.tokenizer.decode(ids[i : i + PASSAGE]) for i in range(0, len(ids), PASSAGE)] or ["\n"])


class RereadReader(Reader):
    """A reader that reads the passages which a question attends to most once more before it, the most attended one last."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._ids: WeakKeyDictionary[Session, Sequence[int]] = WeakKeyDictionary()

    def read(self, text: str) -> Session:
        """As Reader."""
        session = super().read(text)
        self._ids[session] = self.tokenizer.encode(text)
        return session

    def asking(self, session: Session, question: str) -> Session:
        """A fork that has read the passages and the question. Raises InputError if the model does not say what it attends to."""
        found = decisive(super().asking(session, question))
        if found is None:
            raise InputError("this model does not say what it attends to; leave out the arm reread")
        fork, ids = session.fork(), self._ids[session]
        fork.append("".join(f"\n{self.tokenizer.decode(ids[first:end])}" for first, end in reversed(found)))
        return super().asking(fork, question)
