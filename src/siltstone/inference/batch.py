"""A batch: many sessions of any age that one model advances together."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from ..core.given import is_whole
from ..core.interrupt import shielded
from ..errors import BatchFull, InputError, SessionMismatch
from ..models.fingerprint import Seen, Watch, check_pair
from ..models.lm import LM
from ..text import Tokenizer, cut_table
from .likely import Likely
from .mark import Mark
from .receipt import Counters
from .runtime import runtime as chosen
from .session import Session
from .turns import Seat, Turns
from .turnstile import Turnstile
from .work import Reading, Writing
from .writing import Generates, Options, Writer

W = TypeVar("W", Reading, Writing)


class Batch:
    """`batch = Batch(model, tokenizer)`; `a = batch.join()`; `a.feed("text")`; `batch.run()`.

    slots    maximum number of sessions
    runtime  how calls are computed, see `Session`
    slice    tokens of long texts that are read in one turn, by all sessions together: nobody waits longer than for these

    `feed` and `generate` of a member queue work. `turn` takes one token of every session that writes, or that reads a text of at
    most 4 tokens, in one call of the model; then sessions with longer texts read slices of them, one after the other. A session
    has its slot while it is in the batch. A step has 1, 4, 16, 64, ... rows: as few as hold the highest slot in use.

    Every method may be called from any thread. `feed` and `generate` do not wait; all others wait for the turn that is being
    made, and those of a member first for its queued work. `run` makes turns in one thread; if none does, the thread that waits
    for a result makes them. The model's weights must not change: turns then raise SessionMismatch, and so does `save`.
    """

    def __init__(self, model: LM, tokenizer: Tokenizer, slots: int = 64, slice: int = 256, runtime: str = "auto") -> None:
        model = check_pair(model, tokenizer)
        if not isinstance(model, LM):
            raise InputError(f"model is a {type(model).__name__}, and a batch needs an st.LM; use a Session for each text")
        for name, given in (("slots", slots), ("slice", slice)):
            if not is_whole(given) or given < 1:
                raise InputError(f"{name}={given!r} must be a whole number of at least 1")
        self.model, self.tokenizer, self.slots, self.slice = model, tokenizer, int(slots), int(slice)
        self._weights, self._watch = Seen(model), Watch(model)
        self.runtime = runtime
        self._turns = Turns(model, chosen(model, runtime), cut_table(model.cfg, tokenizer), self.slice)
        self._turnstile = Turnstile()
        self._closed = False

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Sessions in the batch."""
        return len(self._turns.seats)

    def join(self, session: Session | str | os.PathLike[str] | None = None) -> Member:
        """The handle of a session that joins: a new one, one of a file, or a given one, which belongs to the batch until `leave`.

        Raises BatchFull; BusyError if the session is in a batch already, or inside a call; SessionMismatch for a session of
        another model or tokenizer, or if the weights have changed; the errors of `Session.load`.
        """
        self._room()
        if session is None:
            session = Session(self.model, self.tokenizer, self.runtime)
        elif isinstance(session, str | os.PathLike):
            session = Session.load(session, self.model, self.tokenizer, self.runtime)
        elif not isinstance(session, Session):
            raise InputError(f"session is a {type(session).__name__}; give a Session, the path of a session file, or None")
        if session.model is not self.model:
            raise SessionMismatch(
                "the session was made with another model object than the batch's; save it, and join its file: "
                "the file says whether the models are equal"
            )
        if session.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise SessionMismatch("the session was made with another tokenizer than the batch's; give one of the same tokenizer")
        if session.runtime != self.runtime and "int8" in (session.runtime, self.runtime):
            raise SessionMismatch(
                f"the session has runtime={session.runtime!r} and the batch runtime={self.runtime!r}: they compute with other "
                "weights; make one of the same runtime"
            )
        self._weights.check(self.model, "this batch")
        session._weights.check(self.model, "the session")
        with self._turnstile.inside():
            self._room()
            with session._alone(), shielded():
                session._batched = True
                return self._seated(session)

    def turn(self) -> bool:
        """One turn; False if nothing was queued. A session whose work fails is told by the result of that work.

        Raises SessionMismatch if the weights were changed; then nothing is done, and the work stays queued.
        """
        with self._turnstile.inside():
            self._open()
            if self._watch.moved():
                self._weights.check(self.model, "this batch")
                self._watch = Watch(self.model)
            return self._turns.make()

    def run(self, stop: Callable[[], bool] | None = None) -> None:
        """Make turns until nothing is queued; with `stop`, until it returns True: then it waits for work in between.

        Raises the error of work that failed, if no result has raised it and `stop` is not given; BusyError if the batch is run
        already.
        """
        self._open()
        with self._turnstile.driving():
            while stop is None or not stop():
                if self._closed and stop is not None:
                    return
                if not self.turn():
                    if stop is None:
                        break
                    self._turnstile.wait(self._queued)
        for seat in list(self._turns.seats.values()) if stop is None else ():
            seat.tell()

    def close(self) -> list[Session]:
        """All sessions leave, in the order of their slots; work that is queued is cancelled."""
        with self._turnstile.inside(), shielded():
            self._closed = True
            return [self._release(seat) for _, seat in sorted(self._turns.seats.items())]

    def _queued(self) -> bool:
        return any(seat.queue for seat in list(self._turns.seats.values()))

    def _open(self) -> None:
        if self._closed:
            raise InputError("this batch is closed; its sessions have left it; make another batch")

    def _room(self) -> None:
        self._open()
        if len(self._turns.seats) >= self.slots:
            raise BatchFull(f"all {self.slots} slots are taken; let a session leave, or make a batch with more slots")

    def _seated(self, session: Session) -> Member:
        taken = self._turns.seats
        seat = Seat(session, next(slot for slot in range(self.slots) if slot not in taken))
        taken[seat.slot] = seat
        return Member(self, seat)

    def _release(self, seat: Seat) -> Session:
        with self._turnstile.lock:
            seat.gone = True
        seat.cancel()
        self._turns.drop(seat)
        seat.session._batched = False
        return seat.session


class Member(Generates[Writing]):
    """A session's handle while it is in a batch. Its calls take effect in their order, as those of a `Session` do.

    Raises InputError after the session has left. An error of queued work is raised by its result, or else by the next call.

    slot      the row that the session has in steps
    timeline  seconds against tokens in this batch: those of the calls of the model that the session took part in
    """

    def __init__(self, batch: Batch, seat: Seat) -> None:
        self._batch, self._seat = batch, seat
        self.model, self.tokenizer = batch.model, batch.tokenizer
        self.slot, self.timeline = seat.slot, seat.timeline

    def _session(self) -> Session:
        if self._seat.gone:
            raise InputError("this session has left the batch; use the Session that leave() returned, or let it join again")
        return self._seat.session

    @property
    def position(self) -> int:
        """Tokens so far; those that are queued are not counted."""
        return self._session().position

    @property
    def logits(self) -> Tensor | None:
        """See `Session.logits`; after the tokens so far."""
        return self._session().logits

    @property
    def counters(self) -> Counters:
        """See `Session`."""
        return self._session().counters

    @property
    def notes(self) -> dict[str, Any]:
        """See `Session`."""
        return self._session().notes

    @property
    def nbytes(self) -> int:
        """See `Session.nbytes`."""
        with self._batch._turnstile.inside():
            return self._session().nbytes

    @property
    def asking(self) -> bool:
        """See `Session.asking`; set it after queued work: the setter waits for that."""
        with self._batch._turnstile.inside():
            return self._session().asking

    @asking.setter
    def asking(self, now: bool) -> None:
        with self._settled() as session:
            self._seat.apart()
            session._ask(now)

    def feed(self, text: str | Sequence[int] | Tensor, scored: bool = False, likely: Likely | None = None) -> Reading:
        """Queue text or ids to read. scored: the result has the tokens' probabilities; likely: keeps them, and those of other
        ids. Raises InputError as `Session.append`."""
        session = self._session()
        return self._queue(Reading(self._wait, session._encode(text), scored, likely=likely))

    def append_scored(self, text: str | Sequence[int] | Tensor) -> Tensor:
        """`feed`, and wait for its result; see `Session.append_scored`."""
        return self.feed(text, scored=True).result()

    def _generate(self, options: Options) -> Writing:
        session, writer = self._session(), Writer(self.tokenizer, options)
        if not any(isinstance(work, Reading) and len(work.ids) for work in list(self._seat.queue)):
            session._last_logits()
        return self._queue(Writing(self._wait, writer, options.seed))

    def cancel(self) -> None:
        """End all queued work where it stands."""
        with self._batch._turnstile.inside():
            self._session()
            self._seat.cancel()

    def snapshot(self) -> Mark:
        """See `Session.snapshot`."""
        with self._settled() as session:
            return session._snapshot()

    def rollback(self, to: Mark | int) -> int:
        """See `Session.rollback`; tokens to read again are queued."""
        with self._settled() as session:
            again = session._go_back(to)
            if len(again):
                self._seat.queue.appendleft(Reading(self._wait, again, again=True))
            return len(again)

    def fork(self) -> Member:
        """A new member with the same state; see `Session.fork`. Raises BatchFull."""
        with self._settled() as session, shielded():
            self._batch._room()
            twin = session._fork()
            twin._batched = True
            return self._batch._seated(twin)

    def copy(self) -> Session:
        """A session with the same state that is not in the batch; see `Session.fork`."""
        with self._settled() as session:
            return session._fork()

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        """See `Session.save`."""
        from .store import save

        with self._settled() as session:
            save(session, path, overwrite)

    def leave(self) -> Session:
        """The session, which is no longer in the batch."""
        with self._settled(), shielded():
            return self._batch._release(self._seat)

    def _queue(self, work: W) -> W:
        turnstile, seat = self._batch._turnstile, self._seat
        seat.tell()
        with turnstile.lock:
            self._session()
            seat.queue.append(work)
        turnstile.tell()
        return work

    def _wait(self, ready: Callable[[], bool]) -> None:
        self._batch._turnstile.wait_driven(ready, self._batch.turn)

    @contextmanager
    def _settled(self) -> Iterator[Session]:
        """Between two turns, when the session's queued work is done."""
        seat, settled = self._seat, False
        while not settled:
            self._session()
            self._wait(lambda: seat.gone or not seat.queue)
            with self._batch._turnstile.inside():
                session, settled = self._session(), not seat.queue
                if settled:
                    seat.tell()
                    yield session
