"""What a session in a batch has queued, and its results: texts to read and texts to write."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import InputError
from .likely import Likely
from .session import Session
from .tokens import Score, log_probabilities
from .writing import Writer

SHORT = 4  # a text of at most so many tokens takes steps; a longer one is read in slices
Wait = Callable[[Callable[[], bool]], None]  # returns when the condition holds


class Work:
    """One queued piece of work.

    done     whether it has ended: complete, failed or cancelled
    error    why it failed; None if it did not
    scored   whether the probabilities of the tokens that are read are wanted; score: computes them
    again    whether the tokens are recomputed, in a rollback
    """

    scored = again = False
    score: Score = staticmethod(log_probabilities)

    def __init__(self, wait: Wait) -> None:
        self._wait = wait
        self.done = False
        self.error: Exception | None = None
        self.told = False  # whether the error was raised, or is no news

    def wait(self) -> None:
        """Return when it is done; raise the error with which it failed. If no other thread runs the batch, this one does."""
        self._wait(lambda: self.done)
        if self.error is not None:
            self.told = True
            raise self.error

    def end(self, error: Exception | None = None, told: bool = False) -> None:
        """Nothing more is done for it."""
        self.error, self.told, self.done = error, told, True


class Reading(Work):
    """A text that a session reads: ids int64 [tokens], of which `at` are read."""

    def __init__(self, wait: Wait, ids: Tensor, scored: bool = False, again: bool = False, likely: Likely | None = None) -> None:
        super().__init__(wait)
        if likely is not None:
            scored, self.score = True, likely
        self.ids, self.scored, self.again, self.at = ids, scored, again, 0
        self._scores = [torch.empty(0, dtype=torch.float32, device="cpu")]

    def result(self) -> Tensor:
        """Waits, and returns the natural-log probability of each token, float32 [tokens] on the CPU, as
        `Session.append_scored` does; empty unless `scored`. InputError if it was cancelled."""
        self.wait()
        return torch.cat(self._scores)

    @property
    def bits(self) -> float:
        """-log2 of the probability of the tokens read so far, without a session's first token; 0 unless `scored`."""
        return -float(torch.cat(self._scores).double().nansum()) / math.log(2)

    def cancel(self) -> None:
        """End it where it stands."""
        self.end(InputError(f"this text was cancelled after {self.at} of {len(self.ids)} tokens"), told=True)

    def token(self, session: Session) -> int | None:
        """The token for a step; None if it has ended, or is read in slices."""
        session._whole()
        if self.at == len(self.ids):
            self.end()
        return None if self.done or len(self.ids) > SHORT else int(self.ids[self.at])

    def took(self, tokens: list[int], scores: Tensor | None) -> None:
        """The session has read the next tokens. scores [tokens]: their natural-log probabilities."""
        self.at += len(tokens)
        if scores is not None:
            self._scores.append(scores)
        if self.at == len(self.ids):
            self.end()


class Writing(Work, Iterator[str]):
    """A text that a session writes. Iterating waits for its pieces and yields each once; several threads may share them.

    tokens   ids that were written so far
    pieces   text of these tokens so far; an incomplete character, and what may become a stop string, is held back
    """

    def __init__(self, wait: Wait, writer: Writer, seed: int | None) -> None:
        super().__init__(wait)
        self.tokens: list[int] = []
        self.pieces: list[str] = []
        self._writer, self._seed, self._given = writer, seed, iter(range(1 << 62))

    def __next__(self) -> str:
        at = next(self._given)
        self._wait(lambda: self.done or len(self.pieces) > at)
        if len(self.pieces) > at:
            return self.pieces[at]
        self.wait()
        raise StopIteration

    def result(self) -> str:
        """Waits, and returns the whole text; what was written until then if it was cancelled."""
        self.wait()
        return "".join(self.pieces)

    def cancel(self) -> None:
        """End it where it stands."""
        self._finish()

    def token(self, session: Session) -> int | None:
        """The token for a step, chosen now; None if the text has ended."""
        session._last_logits()
        if self._seed is not None:
            session._sampler.manual_seed(self._seed)
            self._seed = None
        token = None if self._writer.ended else session._choose(self._writer)
        if token is None:
            self._finish()
        return token

    def took(self, tokens: list[int], scores: Tensor | None) -> None:
        """See `Reading`."""
        for token in tokens:
            self.tokens.append(token)
            self._add(self._writer.push(token))
        if self._writer.ended:
            self._finish()

    def _finish(self) -> None:
        self._add(self._writer.finish())
        self.end()

    def _add(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
