"""A session: one text of any length that a model reads and continues."""

from __future__ import annotations

import copy
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..core.entry import Entry
from ..core.interrupt import shielded
from ..errors import BusyError, InputError, PoolFull, SpillFailed, TokenizerError
from ..io.place import Stamp
from ..models.fingerprint import Seen, check_pair
from ..models.stream_state import LMState
from ..models.streaming import StreamingModel, StreamingState
from ..text import Tokenizer, cut_table
from .attending import Watch, asks, attends
from .mark import Mark, Pieces, Trail
from .receipt import Counters
from .runtime import one_step
from .runtime import runtime as chosen
from .sampling import sample
from .spilling import Spilling, opened, spilled
from .tokens import CHUNK, Score, chunks, encoded, log_probabilities
from .writing import Generates, Options, Writer


class Session(Generates[Pieces]):
    """`s = Session(model, tokenizer)`; device and dtype follow the model, an `LM` or any other `StreamingModel`.

    `append` reads text; `logits` are those after its last token. The model is called with at most 512 tokens at a time. Results
    do not depend on how a text is split over calls of `append` (up to rounding). Ctrl-C takes effect between two calls of the
    model, never inside one. With segments="content" every token that contains the model's `cut_at` (default: a line end) ends a
    segment.

    Only one thread at a time may call a session: the calls of other threads raise BusyError and change nothing. Several threads
    may use sessions and forks of one model, each thread its own. The model's weights must not change: `save` raises
    SessionMismatch if they did (`siltstone.freeze` makes a copy whose weights cannot change).

    runtime     how calls are computed: "eager", "compiled", "int8", or "auto" (see `siltstone.inference.runtime`)
    spill       a folder: blocks of cache="blocks" are in a page file there; or a `siltstone.state.Spill`
    counters    tokens appended, restored from a file, recomputed in `rollback`
    notes       a dictionary for the caller's use, ready for JSON, saved with the session
    """

    def __init__(
        self,
        model: StreamingModel,
        tokenizer: Tokenizer,
        runtime: str = "auto",
        spill: Spilling = None,
    ) -> None:
        model = check_pair(model, tokenizer)
        if tokenizer.vocab_size > model.cfg.vocab_size:
            raise TokenizerError(
                f"the tokenizer has {tokenizer.vocab_size} ids, more than the model's vocab_size={model.cfg.vocab_size}; "
                "use the tokenizer that the model was trained with"
            )
        self.model, self.tokenizer, self.runtime = model, tokenizer, runtime
        self._runtime = chosen(model, runtime)
        self.counters = Counters()
        self.notes: dict[str, Any] = {}
        self._spill = opened(spill)
        self.spills = self._spill is not None
        self._state: StreamingState = spilled(model.init_state(1), self._spill)
        self._cuts = cut_table(model.cfg, tokenizer)
        self._logits: Tensor | None = None
        self._sampler = torch.Generator("cpu").manual_seed(0)
        self._trail = Trail()
        self._torn = False  # a decode step failed after it had changed the state in place
        self._weights = Seen(model)
        self._file: tuple[str, Stamp] | None = None  # path and stamp of the file when it was last read or written
        self._entry = Entry()
        self._batched = False  # a batch holds the session and calls it
        self._watch: Watch | None = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Raise BusyError if another call has not returned: in another thread, or the call that this one comes from."""
        with self._entry.inside(_busy):
            if self._batched:
                raise BusyError(
                    "this session is in a batch; use the handle that Batch.join returned, or take it out with its leave()"
                )
            yield

    def __copy__(self) -> Session:
        """A fork: two sessions never share tensors that a decode step updates in place."""
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> Session:
        """A fork; the model is shared."""
        return self.fork()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """InputError: use `save` and `load`."""
        raise InputError("a session cannot be pickled or sent to another process; save it to a file, and load it there")

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
        """Bytes of the state, the logits and the ids kept for `rollback`; marks are not counted."""
        return self._state.nbytes + (0 if self._logits is None else self._logits.nbytes) + self._trail.nbytes

    @property
    def asking(self) -> bool:
        """Whether blocks are chosen before every token, instead of once in `route_every` tokens (cache="blocks" alone).

        Set it before a question is read: the words of the question then choose the blocks that it attends to, at the cost of a
        choice a token. It holds until it is set again, in forks and in the session's file too. Other models have no choice: it
        stays False.
        """
        return asks(self._state)

    @asking.setter
    def asking(self, now: bool) -> None:
        with self._alone():
            self._ask(now)

    def _ask(self, now: bool) -> None:
        if not isinstance(now, bool):
            raise InputError(f"asking={now!r:.40} must be True or False")
        self._whole()
        if attends(self.model) and now != self.asking:
            assert isinstance(self._state, LMState)
            self._state, self._trail.turns[self.position] = self._state.asking(now), now

    def append(self, text: str | Sequence[int] | Tensor) -> None:
        """Read text or ids. Raises InputError for ids out of range and for text that UTF-8 cannot encode; then nothing
        was read. After an interrupt, the session has read a first part (see `position`)."""
        with self._alone():
            for _ in self._read(self._encode(text), scored=False):
                pass

    def append_scored(self, text: str | Sequence[int] | Tensor) -> Tensor:
        """`append`, and returns the result of `score` from the same calls: float32 [tokens] on the CPU."""
        with self._alone():
            return torch.cat(
                [
                    torch.empty(0, dtype=torch.float32, device="cpu"),
                    *self._read(self._encode(text), scored=True),
                ]
            )

    def score(self, text: str | Sequence[int] | Tensor) -> Tensor:
        """Natural-log probability of each token of `text` as the continuation: float32 [tokens] on the CPU.

        The session does not change. There is no prediction for a session's first token: its value is nan (`torch.nansum`
        adds the others).
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

    def _generate(self, options: Options) -> Pieces:
        writer = Writer(self.tokenizer, options)
        with self._alone():
            self._last_logits()
            if options.seed is not None:
                self._sampler.manual_seed(options.seed)
        return Pieces(self._write(writer))

    def _write(self, writer: Writer) -> Generator[str, None, None]:
        while not writer.ended:
            with self._alone():
                token = self._choose(writer)
                if token is None:
                    break
                for _ in self._read(torch.tensor([token], dtype=torch.long, device="cpu"), scored=False):
                    pass
            piece = writer.push(token)
            if piece:
                yield piece
        piece = writer.finish()
        if piece:
            yield piece

    def _choose(self, writer: Writer) -> int | None:
        """The next token of a text; None if the model predicts the end token."""
        logits = writer.allowed(self._last_logits())
        token = writer.chosen(sample(logits, self._sampler, *writer.options))
        if token is not None and writer.likely is not None:
            writer.likely.chosen(self._last_logits(), token)
        return token

    def fork(self) -> Session:
        """An independent session with the same state; sealed states are shared. Marks made so far are valid in both."""
        with self._alone():
            return self._fork()

    def _fork(self) -> Session:
        self._whole()
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._entry, twin._batched, twin._watch = Entry(), False, None
        twin._state = self._state.fork()
        twin._sampler = torch.Generator("cpu")
        twin._sampler.set_state(self._sampler.get_state())
        twin._trail = self._trail.copy()
        twin.counters, twin.notes = copy.copy(self.counters), copy.deepcopy(self.notes)
        return twin

    def fresh(self) -> Session:
        """A session of the same model and runtime that has read nothing; its blocks are in the same page file."""
        return type(self)(self.model, self.tokenizer, self.runtime, self._spill)

    def watch(self) -> None:
        """Record what the tokens from now on attend to, for `attended`; forks do not record. A step takes a little longer."""
        with self._alone():
            self._watch = Watch()

    def attended(self) -> list[tuple[int, int, float]] | None:
        """The blocks [(first, end, weight)] that were attended to, the largest weight first; first, end: positions of tokens.

        weight: attention mass times the norm of the value, summed over layers, heads and tokens. Sinks and near tokens are left
        out. The tokens are those read or written since `watch` (of a longer call, its last ones; not those of a batch); without
        `watch`, the last ones read. At most `router_queries` of them, since the last choice of blocks. Right after `asking` is
        set to False, earlier tokens of the group count with the choice of the last one.
        None if no layer of the model has cache="blocks".
        """
        with self._alone():
            if not attends(self.model):
                return None
            watch = self._watch
            if watch is None:
                watch = Watch()
                watch.add(self.model, self._state, self.position)
            return watch.found()

    def snapshot(self) -> Mark:
        """A mark for `rollback`; it is valid as long as there is a reference to it."""
        with self._alone():
            return self._snapshot()

    def _snapshot(self) -> Mark:
        self._whole()
        mark = Mark(self.position, self._state.fork(), self._logits, self._sampler.get_state(), self.notes)
        self._trail.add(mark)
        return mark

    def rollback(self, to: Mark | int) -> int:
        """Go back to a mark, or to a position: then the ids from the nearest earlier live mark are read again.

        Returns the number of recomputed tokens (0 for a mark). A mark restores the sampler and the notes too; a position
        changes neither. Later marks become invalid in this session. Raises PositionError for a position before the oldest live
        mark or beyond the end, for one that is only reached from a mark before `asking` was set, and for a mark that was
        released or belongs to another session.
        """
        with self._alone():
            again = self._go_back(to)
            for _ in self._read(again, scored=False, again=True):
                pass
            return len(again)

    def _go_back(self, to: Mark | int) -> Tensor:
        """Go to a mark, or to the one before a position; the ids [tokens] that are left to read again."""
        if self._torn and not isinstance(to, Mark):
            self._whole()
        mark, again = self._trail.back(to, self.position)
        if mark is not None:
            assert mark._state is not None
            self._state, self._logits, self._torn = mark._state.fork(), mark._logits, False
            self._watch = None if self._watch is None else Watch()
        if isinstance(to, Mark):
            self._sampler.set_state(to._sampler)
            self.notes = copy.deepcopy(to._notes)
        return again

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """Write the session to one file, atomically: state, logits, sampler, notes; marks and their ids are not saved.

        overwrite   replace the file also if another session or process has written it since this session read or wrote it

        Before anything is written, all checks of `load` are made. Raises InputError for notes that cannot be saved;
        SessionMismatch if the model's weights have changed since the session was made; StorageError if writing failed and the
        old file is unchanged. Two kinds of StorageError: FileChanged if another writer has replaced the file in between;
        NotDurable if the new file is in place, but may be lost in a power failure.
        """
        from .store import save

        with self._alone():
            self._whole()
            save(self, path, overwrite)

    @staticmethod
    def load(
        path: str | os.PathLike[str], model: StreamingModel, tokenizer: Tokenizer, runtime: str = "auto", spill: Spilling = None
    ) -> Session:
        """The session of a file. With the same calls it continues bit for bit as the saved one; nothing is recomputed.

        Warns with RuntimeChanged if it was saved in 8 bits and continues without, or the other way round.
        Raises SessionCorrupt, SessionVersion, SessionMismatch (another model, configuration, dtype or tokenizer),
        SessionFileError (no such file).
        """
        from .store import load

        return load(path, model, tokenizer, runtime, spill=spill)

    def _encode(self, text: str | Sequence[int] | Tensor) -> Tensor:
        return encoded(text, self.tokenizer, self.model.cfg.vocab_size)

    def _call(
        self, ids: Tensor, state: StreamingState, scored: bool = True, inplace: bool = False
    ) -> tuple[Tensor, StreamingState]:
        """Logits [tokens, vocab_size] (only those of the last token unless scored) and the state after."""
        batch = ids[None].to(self.model.like.device)
        cut = None if self._cuts is None else self._cuts[ids][None]
        if inplace:
            found = one_step(self._runtime, batch[:, 0], state, None if cut is None else cut[:, 0])
            if found is not None:
                return found
        model = self._runtime.reader(self.model)
        hidden, state = model.features(batch, state, inplace=inplace, cut=cut)
        logits = model.head(hidden if scored else hidden[:, -1:])
        return logits[0], state

    def _read(self, ids: Tensor, scored: bool, again: bool = False, score: Score = log_probabilities) -> Iterator[Tensor]:
        """Append checked ids chunk by chunk; yields log-probabilities (those of `score`) if scored, otherwise logits."""
        self._whole()
        for chunk in chunks(ids):
            self._trail.trim(self.position)
            single = len(chunk) == 1  # a decode step updates the state in place; if it fails, the state is torn
            with shielded(), torch.no_grad():
                self._torn = single
                try:
                    logits_TV, state = self._call(chunk, self._state, scored, inplace=single)
                except (PoolFull, SpillFailed):
                    self._torn = False  # it is raised before anything is changed
                    raise
                out = score(self._logits, logits_TV, chunk) if scored else logits_TV
                self._took(chunk.tolist(), logits_TV[-1], state, again)
            yield out

    def _took(self, ids: list[int], last_V: Tensor, state: StreamingState, again: bool) -> None:
        """The session has read these ids: the logits after them, and the state."""
        last = last_V.to(self.model.like.dtype, copy=True)  # under autocast they have fewer bits
        self._state, self._logits, self._torn = state, last, False
        self._trail.read(ids)
        self.counters.add(len(ids), again)
        if self._watch is not None:
            self._watch.add(self.model, state, len(ids))
        if self._spill is not None:
            self._spill.settle()

    def _whole(self) -> None:
        if self._torn:
            raise InputError("a step of this session failed before its end; roll back to a mark, or load it from its file")

    def _last_logits(self) -> Tensor:
        self._whole()
        if self._logits is None:
            raise InputError("the prompt is empty: there is no token to continue from; append some text first")
        return self._logits


def _busy(own: bool) -> BusyError:
    if own:
        return BusyError(
            "a call of this session has not returned, and a hook, a tokenizer or a signal handler called it again; "
            "call it afterwards, or use a fork that was made before"
        )
    return BusyError(
        "another thread is inside a call of this session; use it from one thread at a time, or fork it for each thread"
    )


__all__ = ["CHUNK", "Mark", "Session"]
