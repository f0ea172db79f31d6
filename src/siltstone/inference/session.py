"""A session: one text that a model reads and writes, token by token, for as long as it lasts."""

from __future__ import annotations

import copy
import os
import threading
import weakref
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core.interrupt import shielded
from ..errors import BusyError, InputError, PositionError, TokenizerError
from ..io.place import Stamp
from ..models.fingerprint import Seen, check_pair
from ..models.streaming import StreamingModel, StreamingState
from ..text import StreamDecoder, Tokenizer, cut_table
from .mark import Mark, Pieces
from .receipt import Counters
from .sampling import StopStrings, check_options, sample
from .tokens import CHUNK, chunks, encoded, log_probabilities


class Session:
    """`s = Session(model, tokenizer)`; device and dtype follow the model, an `LM` or any other `StreamingModel`.

    Text goes in by `append`; `logits` are those after its last token. Calls are cut in chunks of 512 tokens and nothing
    else depends on how a text was cut (up to rounding). Ctrl-C never tears a step: it takes effect between two calls.
    With segments="content" every token that holds the model's `cut_at` (a line end, by default) ends a segment.

    One thread at a time may be inside a call of a session: BusyError is raised in the others, whose calls then did nothing.
    Sessions and forks of one model may be used by several threads, each its own. The model's weights must stay as they are:
    `save` raises SessionMismatch where they were changed (`siltstone.freeze` makes a copy that cannot be).

    counters    tokens appended, restored from a file, recomputed by going back
    notes       a dictionary of the caller's own, ready for JSON, saved with the session
    """

    def __init__(self, model: StreamingModel, tokenizer: Tokenizer) -> None:
        model = check_pair(model, tokenizer)
        if tokenizer.vocab_size > model.cfg.vocab_size:
            raise TokenizerError(
                f"the tokenizer has {tokenizer.vocab_size} ids, more than the model's vocab_size={model.cfg.vocab_size}; "
                "use the tokenizer that the model was trained with"
            )
        self.model, self.tokenizer = model, tokenizer
        self.counters = Counters()
        self.notes: dict[str, Any] = {}
        self._state: StreamingState = model.init_state(1)
        self._cuts = cut_table(model.cfg, tokenizer)
        self._logits: Tensor | None = None
        self._sampler = torch.Generator("cpu").manual_seed(0)
        self._marks: list[weakref.ref[Mark]] = []
        self._ids = array("q")  # of the tokens from position - len(ids) on: none earlier than the oldest live mark
        self._torn = False
        self._weights = Seen(model)
        self._file: tuple[str, Stamp] | None = None  # where it was read or written last, and what was there then
        self._entered, self._inside = threading.RLock(), False

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Raise BusyError while another call is not over: of another thread, or the one that this call comes from."""
        if not self._entered.acquire(blocking=False):
            raise BusyError(
                "another thread is inside a call of this session; use it from one thread at a time, or fork it for each thread"
            )
        try:
            if self._inside:
                raise BusyError(
                    "a call of this session is not over, and a hook, a tokenizer or a signal's handler calls it again; "
                    "call it afterwards, or use a fork made before"
                )
            self._inside = True
            try:
                yield
            finally:
                self._inside = False
        finally:
            self._entered.release()

    def __copy__(self) -> Session:
        """A fork: two sessions never share what a step writes in place."""
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """A fork, whose model is the same."""
        return self.fork()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """InputError: sessions have files of their own."""
        raise InputError("a session is not pickled, and not sent to other processes; save it to a file, and load it there")

    @property
    def position(self) -> int:
        """Tokens of the text so far."""
        return int(self._state.position[0])

    @property
    def logits(self) -> Tensor | None:
        """[vocab_size] for the next token, in the model's dtype; None before the first token."""
        return self._logits

    @property
    def nbytes(self) -> int:
        """Bytes of the state, the logits and the ids kept for going back (of marks: nothing)."""
        return self._state.nbytes + (0 if self._logits is None else self._logits.nbytes) + len(self._ids) * self._ids.itemsize

    def append(self, text: str | Sequence[int] | Tensor) -> None:
        """Read text or ids. Raises InputError for ids out of range and for text without a UTF-8 form, and then nothing
        was read. Interrupted, the session has read a first part (see `position`)."""
        with self._alone():
            for _ in self._read(self._encode(text), scored=False):
                pass

    def append_scored(self, text: str | Sequence[int] | Tensor) -> Tensor:
        """`append`, and what `score` would have given, from the same calls: float32 [tokens] on the CPU."""
        with self._alone():
            return torch.cat(
                [
                    torch.empty(0, dtype=torch.float32, device="cpu"),
                    *self._read(self._encode(text), scored=True),
                ]
            )

    def score(self, text: str | Sequence[int] | Tensor) -> Tensor:
        """Natural-log probability of each token of `text`, were it to follow: float32 [tokens] on the CPU.

        The session stays as it was. Before a session's first token there is no prediction: a text scored there has nan
        for its first token (`torch.nansum` adds the rest).
        """
        with self._alone(), torch.no_grad():
            self._whole()
            ids = self._encode(text)
            state, last, out = self._state, self._logits, [torch.empty(0, dtype=torch.float32, device="cpu")]
            for chunk in chunks(ids):
                logits_TV, state = self._call(chunk, state)
                out.append(log_probabilities(last, logits_TV, chunk))
                last = logits_TV[-1]
            return torch.cat(out)

    def generate(
        self,
        max_new_tokens: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
    ) -> Pieces:
        """Pieces of text that the model writes, as they come; a token is appended before its piece is given out.

        max_new_tokens  at most so many tokens; fewer when the model ends the text (the end token is not appended)
        temperature     0 takes the likeliest token; top_k, top_p cut the choice to the likeliest tokens
        stop            strings that end it; they are not given out, not even in parts, though their tokens were appended
        seed            of the sampler, which is the session's own and saved with it; None goes on from where it stands
                        (a new session begins with seed 0)
        Pieces joined are the text of the tokens; a character that is not complete at the end becomes U+FFFD.
        Raises InputError for options out of range, and for a session without a token to go on from.
        """
        if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 0:
            raise InputError(f"max_new_tokens={max_new_tokens!r} must be a whole number of at least 0")
        check_options(temperature, top_k, top_p)
        with self._alone():
            self._last_logits()
            if seed is not None:
                if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**64:
                    raise InputError(
                        f"seed={seed!r} must be a whole number of 64 bits, or None to go on with the session's own sampler"
                    )
                self._sampler.manual_seed(seed)
        return Pieces(self._write(max_new_tokens, temperature, top_k, top_p, StopStrings(() if stop is None else stop)))

    def _write(
        self, count: int, temperature: float, top_k: int | None, top_p: float | None, stops: StopStrings
    ) -> Generator[str, None, None]:
        tok, decoder = self.tokenizer, StreamDecoder(self.tokenizer)
        never = [i for i in (tok.bos_id, tok.pad_id) if i is not None and i != tok.eos_id]
        for _ in range(count):
            with self._alone():
                logits = self._last_logits()[: tok.vocab_size].to("cpu", torch.float32, copy=True)
                logits[never] = -torch.inf
                token = sample(logits, self._sampler, temperature, top_k, top_p)
                if token == tok.eos_id:
                    break
                for _ in self._read(torch.tensor([token], dtype=torch.long, device="cpu"), scored=False):
                    pass
            piece, met = stops.push(decoder.push([token]))
            if piece:
                yield piece
            if met:
                return
        piece, met = stops.push(decoder.finish())
        piece += "" if met else stops.finish()
        if piece:
            yield piece

    def fork(self) -> Session:
        """A session of its own that goes on from here; sealed states are shared. Marks made so far serve both."""
        with self._alone():
            self._whole()
            twin = object.__new__(type(self))
            vars(twin).update(vars(self))
            twin._entered, twin._inside = threading.RLock(), False
            twin._state = self._state.fork()
            twin._sampler = torch.Generator("cpu")
            twin._sampler.set_state(self._sampler.get_state())
            twin._marks, twin._ids = list(self._marks), self._ids[:]
            twin.counters, twin.notes = copy.copy(self.counters), copy.deepcopy(self.notes)
            return twin

    def snapshot(self) -> Mark:
        """A mark to go back to with `rollback`, for as long as somebody holds it."""
        with self._alone():
            self._whole()
            self._trim()
            mark = Mark(self.position, self._state.fork(), self._logits, self._sampler.get_state())
            self._marks.append(weakref.ref(mark))
            return mark

    def rollback(self, to: Mark | int) -> int:
        """Go back to a mark, or to a position by replaying the ids from the nearest live mark before it.

        Returns how many tokens were recomputed (0 for a mark). A mark brings the sampler back too; a position leaves it
        as it is. Marks after the place gone back to are released from this session. Raises PositionError for a position
        before the oldest live mark or beyond the end, and for a mark that is released or of another session.
        """
        with self._alone():
            return self._rollback(to)

    def _rollback(self, to: Mark | int) -> int:
        if self._torn and not isinstance(to, Mark):
            self._whole()
        self._trim()
        marks = self._live()
        if isinstance(to, Mark):
            if not any(to is m for m in marks):
                why = "belongs to another session, or this one has gone back to before it" if to.live else "was released"
                raise PositionError(f"cannot go back to {to}: it {why}; take a snapshot of this session, or fork it beforehand")
            self._go(to, marks)
            self._sampler.set_state(to._sampler)
            return 0
        if not isinstance(to, int) or isinstance(to, bool):
            raise InputError(f"rollback to {to!r}: give a mark or a position (a whole number)")
        if to == self.position:
            return 0
        before = [m for m in marks if m.position <= to]
        if to > self.position or not before:
            kept = f"ids are kept from {marks[0].position} on (the oldest live mark)" if marks else "no mark is live"
            raise PositionError(
                f"cannot go back to position {to}: the session stands at {self.position}, and {kept}; "
                "take a snapshot() before the place to come back to"
            )
        mark = max(before, key=lambda m: m.position)
        ids = torch.tensor(self._ids[mark.position - marks[0].position : to - marks[0].position], dtype=torch.long, device="cpu")
        self._go(mark, marks)
        for _ in self._read(ids, scored=False, again=True):
            pass
        return len(ids)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the session to one file, atomically: state, logits, sampler, notes; marks and their ids stay behind.

        overwrite   write also over what another session or process has put there since this session read or wrote the file

        Everything is checked as `load` checks it before anything is written. Raises InputError for notes that cannot be saved;
        SessionMismatch where the model's weights were changed under the session; StorageError, after which the old file is as
        it was, and its kinds FileChanged, where another writer has replaced the file in between, and NotDurable, after which
        the new file is there and might be lost in a power cut.
        """
        from .store import save

        with self._alone():
            self._whole()
            save(self, path, overwrite)

    @staticmethod
    def load(path: str | os.PathLike[str], model: StreamingModel, tokenizer: Tokenizer) -> Session:
        """The session of a file, as it was: in the same calls it goes on bit for bit, with nothing recomputed.

        Raises SessionCorrupt, SessionVersion, SessionMismatch (another model, configuration, dtype or tokenizer),
        SessionFileError (no such file).
        """
        from .store import load

        return load(path, model, tokenizer)

    def _encode(self, text: str | Sequence[int] | Tensor) -> Tensor:
        return encoded(text, self.tokenizer, self.model.cfg.vocab_size)

    def _call(
        self, ids: Tensor, state: StreamingState, scored: bool = True, inplace: bool = False
    ) -> tuple[Tensor, StreamingState]:
        """Logits [tokens, vocab_size] (only the last one's unless scored) and the state after."""
        batch = ids[None].to(self.model.like.device)
        cut = None if self._cuts is None else self._cuts[ids][None]
        hidden, state = self.model.features(batch, state, inplace=inplace, cut=cut)
        logits = self.model.head(hidden if scored else hidden[:, -1:])
        return logits[0], state

    def _read(self, ids: Tensor, scored: bool, again: bool = False) -> Iterator[Tensor]:
        """Append checked ids chunk by chunk; gives log-probabilities if scored."""
        self._whole()
        for chunk in chunks(ids):
            self._trim()
            single = len(chunk) == 1  # a single token may be written into the state in place: all or nothing
            with shielded(), torch.no_grad():
                self._torn = single
                logits_TV, state = self._call(chunk, self._state, scored, inplace=single)
                out = log_probabilities(self._logits, logits_TV, chunk) if scored else logits_TV
                last = logits_TV[-1].to(self.model.like.dtype, copy=True)  # under autocast they are narrower
                self._state, self._logits, self._torn = state, last, False
                if self._marks:
                    self._ids.extend(chunk.tolist())
                self.counters.add(len(chunk), again)
            yield out

    def _whole(self) -> None:
        if self._torn:
            raise InputError("a step of this session failed halfway; roll back to a mark, or load it from its file")

    def _last_logits(self) -> Tensor:
        self._whole()
        if self._logits is None:
            raise InputError("the prompt is empty: there is no token to go on from; append some text first")
        return self._logits

    def _live(self) -> list[Mark]:
        """Marks that can be gone back to, oldest first."""
        found = (ref() for ref in self._marks)
        return sorted((m for m in found if m is not None and m.live), key=lambda m: m.position)

    def _trim(self) -> None:
        """Forget marks that nobody holds, and the ids before the oldest one that somebody does."""
        if not self._marks:
            return
        marks = self._live()
        self._marks = [weakref.ref(m) for m in marks]
        drop = len(self._ids) - (self.position - marks[0].position) if marks else len(self._ids)
        if drop > 0:
            del self._ids[:drop]

    def _go(self, mark: Mark, marks: list[Mark]) -> None:
        """Stand at a mark; later marks, and the ids after it, belong to a text that is gone."""
        assert mark._state is not None
        self._marks = [weakref.ref(m) for m in marks if m.position <= mark.position]
        del self._ids[mark.position - marks[0].position :]
        self._state, self._logits, self._torn = mark._state.fork(), mark._logits, False


__all__ = ["CHUNK", "Mark", "Session"]
