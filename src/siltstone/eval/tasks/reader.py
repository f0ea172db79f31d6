"""How text tasks use a model: a document is streamed once into a session, and every question is asked on a fork of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...inference.session import Session
from ...models.streaming import StreamingModel
from ...text import Tokenizer
from .words import Prose


class Reader:
    """A model, its tokenizer, and the book text (or generated prose) that fills documents.

    largest   bytes of the largest session that has read a text
    """

    def __init__(self, model: StreamingModel, tokenizer: Tokenizer, books: Sequence[str] = ()) -> None:
        self.model, self.tokenizer, self.books = model, tokenizer, books
        self.largest = 0

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.tokenizer.encode(text))

    def filler(self, tokens: int, by: np.random.Generator) -> list[str]:
        """Sentences of about `tokens` tokens: at most that many, and one sentence at least unless `tokens` is 0."""
        prose, out, total = Prose(self.books, by), [], 0
        while total < tokens:
            sentence = prose.sentence()
            total += self.count(sentence)
            if total <= tokens or not out:
                out.append(sentence)
        return out

    def read(self, text: str) -> Session:
        """A session that has read the text, in calls of bounded size. An empty text is read as a line end."""
        session = Session(self.model, self.tokenizer)
        session.append(text or "\n")
        self.largest = max(self.largest, session.nbytes)
        return session

    def asking(self, session: Session, question: str) -> Session:
        """A fork that has read the question; blocks are chosen before each of its tokens."""
        asked = session.fork()
        asked.asking = True
        asked.append(question)
        return asked

    def ranks(self, session: Session, question: str, candidates: Sequence[str]) -> np.ndarray:
        """float64 [candidates]: mean log-probability (nats) of a token of each candidate after the question."""
        asked = self.asking(session, question)
        return np.array([float(torch.nanmean(asked.score(each).double())) for each in candidates])

    def answer(self, session: Session, question: str, tokens: int) -> str:
        """What the model writes after the question, greedily."""
        return "".join(self.asking(session, question).generate(tokens, temperature=0.0))

    def nats(self, session: Session, text: str) -> np.ndarray:
        """float64 [tokens]: -log p of each token of the text after what the session has read. The session does not change."""
        return -session.score(text).double().numpy()
