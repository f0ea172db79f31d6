"""`siltstone stream` with several files: one model reads all of them, each with a session of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siltstone.core.interrupt import Interrupts
    from siltstone.inference.batch import Batch, Member
    from siltstone.inference.reader import Cost
    from siltstone.inference.receipt import Timeline

NAME = "{name}"


@dataclass
class Options:
    """Those of `siltstone stream`. seconds: maximum time between two saves of a session."""

    lines: bool
    every: int
    report: int
    errors: str
    as_json: bool
    seconds: float


def placed(files: Sequence[str], session: Path | None, folder: Path | None, offset: int | None) -> list[Path | None]:
    """The session file of each input. Raises ConfigError for options that do not go together."""
    from siltstone.errors import ConfigError

    several = len(files) > 1
    if session is not None and folder is not None:
        raise ConfigError("--session and --session-dir both say where sessions are saved; give one of them")
    if folder is not None:
        session = folder / f"{NAME}.silt"
    if several and "-" in files:
        raise ConfigError("standard input (-) is among several files; give it alone")
    if several and offset is not None:
        raise ConfigError("--offset is for one input; leave it out: with sessions, each file goes on where it was left")
    if session is None:
        return [None] * len(files)
    if folder is None and not several and (NAME not in session.name or "-" in files):
        return [session]
    if NAME not in session.name:
        raise ConfigError(
            f"--session {session} is one file for {len(files)} sessions; put {NAME} into its name, or use --session-dir"
        )
    if "-" in files:
        raise ConfigError("standard input has no name for --session-dir; use --session FILE")
    found = [session.with_name(session.name.replace(NAME, Path(file).name)) for file in files]
    for i, place in enumerate(found):
        if place in found[:i]:
            first = files[found.index(place)]
            raise ConfigError(f"{first} and {files[i]} would both save their sessions in {place}; read them one after the other")
    return list(found)


class Stream:
    """One of the files. At most one piece of it is being read; `work` is its reading in the batch."""

    def __init__(self, file: str, place: Path | None, member: Member, options: Options) -> None:
        from siltstone.cli.progress import Progress
        from siltstone.inference.reader import Reader

        self.file, self.place, self.member, self.options = file, place, member, options
        self.reader = Reader(member, options.errors)
        self.fresh, self.saved, self.at = member.position == 0, member.counters.appended, time.monotonic()
        self.work: Any = None
        self.error: Exception | None = None
        self.ended = False
        self.progress = Progress(options.report, options.lines, None, options.as_json, file)

    def open(self, opened: ExitStack, stop: Interrupts) -> None:
        """Begin to read, at the byte where the session stands. Raises DataError."""
        from siltstone.cli import source
        from siltstone.errors import DataError
        from siltstone.inference.pieces import pieces

        found = opened.enter_context(source.opened(self.file, stop))
        if not found.seekable():
            raise DataError(f"{self.file} is not a regular file; read it alone")
        self.progress.size = source.place(self.reader, found, self.file, None, stop, f"{self.file}: ")
        self.begun = self.reader.offset
        self.pieces = pieces(found, self.options.lines, stop.waiting, self.member.tokenizer)

    def next(self) -> None:
        """Queue the next piece, if none is queued. An error of the text ends this stream, and is raised when all have ended."""
        from siltstone.errors import DataError

        if self.ended or self.work is not None:
            return
        try:
            piece = next(self.pieces, None)
            if piece is not None:
                self.part = self.reader.encode(piece)
                self.work = self.member.feed(self.part.ids, scored=True)
                return
            if self.fresh and self.reader.offset == self.begun:
                raise DataError(f"{self.file} is empty; give some text")
        except DataError as error:
            self.error = type(error)(f"{self.file}: {error}" if self.file not in str(error) else str(error))
        self.ended = True
        self.progress.__exit__(self.error)

    def account(self) -> Cost | None:
        """Count the piece if it was read."""
        if self.work is None or not self.work.done:
            return None
        cost, self.work = self.reader.account(self.part, self.work.result()), None
        return cost

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        late = time.monotonic() - self.at >= self.options.seconds
        return self.member.counters.appended - self.saved >= self.options.every or late

    def save(self) -> None:
        """Save the session, if it has a file and has read something."""
        if self.place is not None and (self.reader.offset or self.error is None):
            self.reader.save(self.place)
            self.saved, self.at = self.member.counters.appended, time.monotonic()


def read_together(
    run: Path, files: Sequence[str], places: Sequence[Path | None], options: Options, machine: tuple[str, int | None, str]
) -> None:
    """The command for several files. machine: device, number of threads and runtime."""
    from siltstone.cli.sessions import open_sessions
    from siltstone.core.interrupt import Interrupts, exit_code
    from siltstone.core.terminal import say
    from siltstone.errors import StorageError
    from siltstone.inference.batch import Batch
    from siltstone.inference.receipt import Timeline
    from siltstone.inference.tokens import CHUNK

    sessions = open_sessions(run, places, *machine)
    batch = Batch(sessions[0].model, sessions[0].tokenizer, slots=len(files), slice=CHUNK, runtime=machine[2])  # type: ignore[arg-type]
    with Interrupts() as stop, ExitStack() as opened:
        streams = [
            Stream(file, place, batch.join(session), options)
            for file, place, session in zip(files, places, sessions, strict=True)
        ]
        timeline = Timeline()
        for one in streams:
            one.open(opened, stop)
        try:
            _read(batch, streams, timeline, stop)
        except KeyboardInterrupt as stopped:
            _save(batch, streams)
            kept = "; the same command resumes there" if any(places) else "; nothing is saved without --session-dir"
            say(f"interrupted at {', '.join(f'byte {one.reader.offset:,} of {one.file}' for one in streams)}{kept}")
            raise SystemExit(exit_code(stopped)) from None
        except StorageError:
            raise
        except OSError:
            _save(batch, streams)
            raise
        for one in streams:
            one.save()
    _results(streams, timeline, options)


def _read(batch: Batch, streams: Sequence[Stream], timeline: Timeline, stop: Interrupts) -> None:
    """Turns until all streams have ended."""
    while True:
        for one in streams:
            one.next()
        if all(one.ended for one in streams):
            return
        began, before = time.perf_counter(), sum(one.member.position for one in streams)
        batch.turn()
        timeline.add(sum(one.member.position for one in streams) - before, time.perf_counter() - began)
        for one in streams:
            cost = one.account()
            if cost is not None:
                with stop.waiting(check=False):
                    one.progress.show(one.reader, one.part.piece, cost)
                if one.due:
                    one.save()
        stop.check()


def _save(batch: Batch, streams: Sequence[Stream]) -> None:
    """Read the pieces that were begun, and save every session."""
    batch.run()
    for one in streams:
        one.account()
        one.save()


def _results(streams: Sequence[Stream], timeline: Timeline, options: Options) -> None:
    """A line for each file, then one receipt; the first error of a file is raised last."""
    from siltstone.cli.progress import print_receipt
    from siltstone.core.plain import json_line
    from siltstone.core.terminal import shown
    from siltstone.core.words import counted
    from siltstone.inference.receipt import combined

    out = sys.stderr if options.lines or options.as_json else sys.stdout
    receipts = [one.reader.receipt() for one in streams]
    for one, found in zip(streams, receipts, strict=True):
        bits = "-" if found.bits_per_byte is None else f"{found.bits_per_byte:.4f}"
        print(f"{shown(one.file, out)}\t{bits} bits per byte\t{counted(found.bytes_read, 'byte')}", file=out)
        if options.as_json:
            print(json_line({"file": one.file} | found.to_dict()), flush=True)
    print_receipt(combined(receipts, timeline), options.as_json, out, {"files": len(streams)})
    for one in streams:
        if one.error is not None:
            raise one.error
