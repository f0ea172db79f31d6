"""Makes each system call of a save fail once, in every way that it can, and looks at what is on the disk afterwards.

    torture(action, check, folder)      every call fails, is interrupted, or is the last before the process is killed
    power_cuts(action, check, folder)   the power fails before every call, and what was not flushed is lost

action  writes something into the folder that it is given: always the same
check   looks at that folder: AssertionError unless what was written there is wholly old or wholly new; whether it is new
folder  where folders for the runs are made
begin   fills a new folder with what is old

`every_fault` and `every_cut` yield the runs one by one, for other questions.
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from siltstone.errors import SiltstoneError, StorageError
from siltstone.io import lock, system

from .disk import Disk
from .factor import FACTOR

Action = Callable[[Path], object]
Check = Callable[[Path], bool]

CALLS = [name for name, value in vars(system).items() if callable(value) and value.__module__ == system.__name__]
ANY = "any"
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EINTR", "EACCES", "EROFS")
STRANGERS = ("stranger.txt", ".stranger.tmp", ".stranger.0123.tmp", "stranger.0123456789ab.tmp", ".stranger.lock")


class Killed(BaseException):
    """The process was killed: nothing that it would still have done happens."""


@dataclass(frozen=True)
class Plan:
    """Which system call fails, and how.

    number  of the call, from 0
    call    its name in `siltstone.io.system`, or ANY
    fault   the name of an error; "short" (half is written); "Ctrl-C" and "killed" (before the call); "killed halfway" (when half
            is written)
    """

    number: int
    call: str
    fault: str


@dataclass
class Seam:
    """While its block runs, system calls of `siltstone.io` are counted, and one fails as planned.

    seen    the names of the calls made so far
    """

    plan: Plan | None = None
    disk: Disk | None = None
    seen: list[str] = field(default_factory=list)
    dead: bool = False
    _open: set[int] = field(default_factory=set)
    _real: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Seam:
        self._real = {name: getattr(system, name) for name in CALLS}
        for name in CALLS:
            setattr(system, name, self._failing(name))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name, call in self._real.items():
            setattr(system, name, call)

    def _failing(self, name: str) -> Callable[..., Any]:
        def call(*values: Any) -> Any:
            if self.dead:
                raise Killed
            here = self.plan is not None and self.plan.number == len(self.seen)
            self.seen.append(name)
            if here and self.plan is not None:
                if self.plan.call not in (name, ANY):
                    raise AssertionError(f"{self.plan} is a call of {name} this time: the action is not always the same")
                values = self._fail(self.plan.fault, name, values)
            return self._do(name, values)

        return call

    def _do(self, name: str, values: tuple[Any, ...]) -> Any:
        call = self._real[name]
        result = self.disk.do(name, call, values) if self.disk else call(*values)
        if name == "open":
            self._open.add(result)
        elif name == "close":
            self._open.discard(values[0])
        return result

    def _fail(self, fault: str, name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Raises, or returns what the call is made with instead."""
        half = (values[0], values[1][: max(1, len(values[1]) // 2)]) if name == "write" else values
        if fault == "short":
            return half
        if fault.startswith("killed"):
            if fault == "killed halfway":
                self._do(name, half)
            self._die()
            raise Killed
        if name == "close":  # which closes all the same
            self._do(name, values)
        if fault == "Ctrl-C":
            raise KeyboardInterrupt
        number = getattr(errno, fault)
        raise OSError(number, os.strerror(number))

    def _die(self) -> None:
        """The system closes what a killed process had open, and so lifts its locks."""
        self.dead = True
        for claim in list(lock._claims):
            claim._end.detach()
        for handle in self._open:
            os.close(handle)


def _faults(call: str) -> tuple[str, ...]:
    if call == "lock":
        return ("EAGAIN", "ENOLCK", "EIO", "EINTR", "Ctrl-C", "killed")
    return (*ERRORS, "Ctrl-C", "killed", *(("short", "killed halfway") if call == "write" else ()))


def _calls(action: Action, begin: Action, folder: Path) -> list[str]:
    """The system calls of the action when nothing fails."""
    place = _begun(folder / "whole", begin)
    with Seam() as seam:
        action(place)
    return seam.seen


def _begun(place: Path, begin: Action) -> Path:
    place.mkdir(parents=True)
    begin(place)
    for name in STRANGERS:
        (place / name).write_bytes(b"of somebody else")
    return place


def _some(cases: list[Any], most: int | None) -> list[Any]:
    """All of them, or as many as there is time for, drawn at random, always the same."""
    count = len(cases) if most is None else round(most * FACTOR)
    return cases if len(cases) <= count else sorted(random.Random(0).sample(cases, count), key=cases.index)


def every_fault(
    action: Action, folder: Path, begin: Action = lambda _: None, most: int | None = None
) -> Iterator[tuple[Plan, Path, BaseException | None]]:
    """Runs the action again and again in folders of their own; yields which call failed, the folder, and what was raised.

    most    how many of the runs to make with SILTSTONE_TORTURE=1; None: all
    """
    calls = _calls(action, begin, folder)
    plans = [Plan(number, call, fault) for number, call in enumerate(calls) for fault in _faults(call)]
    for case, plan in enumerate(_some(plans, most)):
        place = _begun(folder / f"{case}-{plan.call}-{plan.fault}".replace(" ", "-"), begin)
        raised: BaseException | None = None
        with Seam(plan) as seam:
            try:
                action(place)
            except (Exception, KeyboardInterrupt, Killed) as error:
                raised = error
        assert len(seam.seen) > plan.number, f"{plan}: the action did not come to it this time"
        yield plan, place, raised


def every_cut(
    action: Action, folder: Path, begin: Action = lambda _: None, most: int | None = None
) -> Iterator[tuple[int, int, Path]]:
    """As `every_fault`, with power cuts; yields before which call it was, how many calls the action has, and the folder."""
    count = len(_calls(action, begin, folder))
    cases = [(at, kept, data) for at in range(count + 1) for kept in range(5) for data in (True, False)]
    for case, (at, kept, data) in enumerate(_some(cases, most)):
        place = _begun(folder / f"{case}-{at}-{kept}-{data}", begin)
        disk = Disk(folder / f"{case}-vault")
        with Seam(Plan(at, ANY, "killed"), disk):
            try:
                action(place)
            except Killed:
                pass
        disk.cut(kept, data)
        yield at, count, place


def torture(
    action: Action, check: Check, folder: Path, begin: Action = lambda _: None, single: bool = True, most: int | None = None
) -> int:
    """Every fault; afterwards: old or new, nothing foreign touched, nothing left, and the next run succeeds. How many runs.

    single  whether the action replaces one file (or makes one folder), so that an error means that the old one is there
    """
    runs = 0
    gc.collect()
    gc.freeze()  # each run collects: only what it made itself
    for plan, place, raised in every_fault(action, folder, begin, most):
        killed = isinstance(raised, Killed)
        told = isinstance(raised, KeyboardInterrupt if plan.fault == "Ctrl-C" else SiltstoneError)
        assert raised is None or killed or told, (plan, raised)
        new = check(place)
        if raised is None:
            assert new, f"{plan}: success was reported, and the old file is there"
        elif single and isinstance(raised, SiltstoneError):
            replaced = isinstance(raised, StorageError) and raised.replaced
            assert new == replaced, f"{plan}: {'the new' if new else 'the old'} file is there after {raised!r}"
        if not killed:
            _forget(raised)
            kept = [name for name in _open_files().splitlines() if str(place) in name]
            assert not kept, f"{plan}: {kept} was left open"
            assert _may_stay(plan) or not _left(place), f"{plan}: {_left(place)} was left"
        _once_more(action, check, place, plan)
        runs += 1
    return runs


def power_cuts(action: Action, check: Check, folder: Path, begin: Action = lambda _: None, most: int | None = None) -> int:
    """Every power cut; afterwards: old or new, and new if the action had come to its end. How many runs."""
    runs = 0
    for at, count, place in every_cut(action, folder, begin, most):
        new = check(place)
        assert new or at < count, "the power failed after the save had succeeded, and the old file is there"
        _once_more(action, check, place, at)
        runs += 1
    return runs


def _once_more(action: Action, check: Check, place: Path, plan: object) -> None:
    action(place)
    assert check(place), f"{plan}: the next run succeeded, and the old file is there"
    left = [*_left(place), *(path.name for path in place.rglob(".*.new"))]
    assert not left, f"{plan}: the next run left {left}"
    assert all((place / name).read_bytes() == b"of somebody else" for name in STRANGERS), f"{plan}: somebody else's file"


def _left(place: Path) -> list[str]:
    found = itertools.chain(place.rglob(".*.tmp"), place.rglob(".*.lock"))
    return [path.name for path in found if path.name not in STRANGERS]


def _may_stay(plan: Plan) -> bool:
    """Whether something is left to the next writer: it could not be removed, or another may hold its lock."""
    return plan.call in ("unlink", "lock")


def _forget(error: BaseException | None) -> None:
    """Lets go of the frames that an error holds: what they map is released, and what was left open is not."""
    while error is not None:
        error.__traceback__, error = None, error.__cause__ or error.__context__
    gc.collect()


def _open_files() -> str:
    """The names of all files that this process has open."""
    names = []
    for handle in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{handle}"))
        except FileNotFoundError:
            pass
    return "\n".join(names)
