"""The engine: one thread drives the batch; requests wait for a slot in a bounded queue, and for news of their work."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from ..errors import SiltstoneError
from ..inference.batch import Batch, Member
from ..inference.session import Session
from ..inference.work import Reading, Writing
from ..models.lm import LM
from ..text import Tokenizer
from .problem import Problem, busy

Joining = asyncio.Future[Member]
T = TypeVar("T")


async def undivided(work: Callable[..., T], *given: Any) -> T:
    """The result of `work`, called in a thread. If the caller is cancelled, it waits for the end of the call first."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *given))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class Gate:
    """Lets requests into `slots` slots in their order. `queue` requests at most wait; others are refused with 429."""

    def __init__(self, slots: int, queue: int) -> None:
        self.slots, self.free, self.queue = slots, slots, queue
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, slots: int) -> None:
        """From now on so many slots are the caller's, until `give`. Raises Problem."""
        self.check(slots)
        if self.waiting or slots > self.free:
            await self._turn(slots)
        else:
            self.free -= slots

    def check(self, slots: int) -> None:
        """Raises Problem 429 if the queue is full."""
        if (self.waiting or slots > self.free) and len(self.waiting) >= self.queue:
            raise busy(f"{len(self.waiting)} requests wait already; try again later.")

    def give(self, slots: int) -> None:
        """The caller needs these slots no more."""
        self.free += slots
        self._admit()

    async def _turn(self, slots: int) -> None:
        mine = (slots, asyncio.get_running_loop().create_future())
        self.waiting.append(mine)
        try:
            await mine[1]
        except asyncio.CancelledError:
            if mine in self.waiting:
                self.waiting.remove(mine)
            elif mine[1].done() and not mine[1].cancelled():
                self.free += slots
            self._admit()
            raise

    def _admit(self) -> None:
        while self.waiting and self.waiting[0][0] <= self.free:
            slots, ready = self.waiting.popleft()
            if not ready.done():
                self.free -= slots
                ready.set_result(None)


class Watch:
    """News of some works: `event` is set when one of them has new text or has ended."""

    def __init__(self, works: Sequence[Reading | Writing]) -> None:
        self.works, self.event = works, asyncio.Event()
        self._seen: Any = None

    def moved(self) -> bool:
        """Whether there is news since the last call; for the engine's thread."""
        now = [(work.done, len(work.pieces) if isinstance(work, Writing) else 0) for work in self.works]
        moved, self._seen = now != self._seen, now
        return moved


class Engine:
    """Sessions join with `join`, their works end in the engine's thread, and `release` takes them out."""

    def __init__(self, model: LM, tokenizer: Tokenizer, slots: int = 64, queue: int = 256, runtime: str = "auto") -> None:
        self.batch = Batch(model, tokenizer, slots, runtime=runtime)
        self.gate = Gate(slots, queue)
        self.failed: BaseException | None = None
        self._watches: set[Watch] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Start the thread; called in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._drive, name="siltstone-model", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """All sessions leave, and the thread ends."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._stopping = True
        await asyncio.to_thread(self.batch.close)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def slot(self, slots: int) -> float:
        """Wait until so many slots are the caller's; the seconds that this took. Raises Problem."""
        began = time.monotonic()
        await self.gate.take(slots)
        return time.monotonic() - began

    async def join(self, session: Session, joined: list[Joining]) -> Member:
        """The session's handle in the batch. joined: gets what `release` needs, also if the caller is cancelled meanwhile."""
        self._check()
        joined.append(asyncio.ensure_future(asyncio.to_thread(self.batch.join, session)))
        return await asyncio.shield(joined[-1])

    async def news(self, works: Sequence[Reading | Writing]) -> AsyncIterator[None]:
        """Yields whenever there is news of these works, and ends after all of them have. Raises the error of a work."""
        watch = Watch(works)
        self._watches.add(watch)
        try:
            while True:
                ended = all(work.done for work in works)
                yield
                for work in works:
                    if work.error is not None:
                        work.told = True
                        raise work.error
                if ended:
                    return
                self._check()
                # Not `asyncio.wait_for`: before Python 3.12 it drops a cancellation that comes together with news.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(5):  # the thread may have failed
                        await watch.event.wait()
                watch.event.clear()
        finally:
            self._watches.discard(watch)

    async def done(self, work: Reading | Writing) -> None:
        """Return when a work has ended; raise its error."""
        async for _ in self.news([work]):
            pass

    def release(self, joined: Sequence[Joining], slots: int) -> asyncio.Task[None]:
        """The sessions' work is cancelled, they leave, and the slots are free. The task goes on if its caller is cancelled."""

        async def leave() -> None:
            try:
                for joining in joined:
                    with contextlib.suppress(SiltstoneError):  # told by `join`
                        await asyncio.to_thread(_out, await joining)
            finally:
                self.gate.give(slots)

        task = asyncio.get_running_loop().create_task(leave())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check(self) -> None:
        if not self.ready:
            raise Problem(503, "The model's thread has stopped; the server must be restarted.", code="engine_stopped")

    def _drive(self) -> None:
        try:
            self.batch.run(self._between)
        except BaseException as error:  # the weights were changed, or the program has an error: /ready tells
            self.failed = error

    def _between(self) -> bool:
        """Called by the thread between two turns."""
        moved = [watch.event for watch in list(self._watches) if watch.moved()]
        if moved and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_set, moved)
        return self._stopping


def _out(member: Member) -> None:
    for _ in range(2):  # an error of its work is told once
        with contextlib.suppress(SiltstoneError):
            member.cancel()
            member.leave()
            return


def _set(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()
