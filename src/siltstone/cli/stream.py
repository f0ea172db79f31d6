"""`siltstone stream`: a trained model reads a stream of any length and prints its bits per byte."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siltstone.cli.arguments import THREADS, RunFolder, RuntimeName, at_least, integer, output, text, unset

if TYPE_CHECKING:
    from siltstone.core.interrupt import Interrupts
    from siltstone.inference.reader import Cost, Reader

SECONDS = 30.0  # maximum time between two saves
ERRORS = (
    "strict: bytes that are not UTF-8 text, and zero bytes, are an error; replace: they are read as U+FFFD, counted, and cost "
    "8 more bits each. [default: strict; with --lines replace, so that one bad byte does not stop the monitoring of a log]"
)


def stream(
    run: RunFolder,
    file: Annotated[str, typer.Argument(metavar="[FILE|-]", help="Text to read, or - for standard input.", parser=text)] = "-",
    lines: Annotated[
        bool, typer.Option("--lines", help="Print the bits per byte of each line at once: an anomaly score for logs.")
    ] = False,
    session: Annotated[
        Path | None,
        unset("Save the session in this file; resume from it if it exists.", output, "FILE"),
    ] = None,
    every: Annotated[
        int, typer.Option(help="With --session: tokens between two saves, about (also every 30 seconds).", parser=at_least(1))
    ] = 100_000,
    offset: Annotated[
        int | None,
        unset(
            "Bytes of the input to skip. [default: with --session and a file, the bytes read before]",
            at_least(0),
            "INTEGER",
        ),
    ] = None,
    report: Annotated[int, typer.Option(help="Tokens between lines of progress.", parser=at_least(1))] = 10_000,
    errors: Annotated[str | None, typer.Option(help=ERRORS, show_default=False)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Only JSON on standard output: with --lines one object a line, then the receipt.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
    runtime: RuntimeName = "auto",
) -> None:
    """Read a stream of any length in bounded memory, print bits per byte, and print a receipt at the end.

    With --session, an interrupted stream resumes from its last save: for a file, run the same command again.
    Standard input must continue at the byte that is printed at the start; if it starts at its first byte, use --offset to skip
    to that byte. Ctrl-C, SIGTERM, SIGHUP and a closed output save the session.
    """
    from siltstone.cli.sessions import open_session
    from siltstone.core.interrupt import Interrupts, exit_code
    from siltstone.errors import ConfigError, DataError, StorageError
    from siltstone.inference.pieces import pieces
    from siltstone.inference.reader import Reader

    errors = errors or ("replace" if lines else "strict")
    if errors not in ("strict", "replace"):
        raise ConfigError(f"--errors {errors!r} is not known; choose strict or replace")
    reader = Reader(open_session(run, session, device, threads, runtime), errors)
    fresh = reader.session.position == 0
    with Interrupts() as stop, _opened(file, stop) as source:
        try:
            size = _place(reader, source, file, offset, stop)
            saved, start, at = 0, reader.offset, time.monotonic()
            with _Progress(report, lines, size, as_json) as progress:
                for piece in pieces(source, lines, stop.waiting, reader.session.tokenizer):
                    cost = reader.feed(piece)
                    with stop.waiting(check=False):
                        progress.show(reader, piece, cost)
                    due = reader.session.counters.appended - saved >= every or time.monotonic() - at >= SECONDS
                    if session is not None and due:
                        reader.save(session)
                        saved, at = reader.session.counters.appended, time.monotonic()
                    stop.check()
            if fresh and reader.offset == start:
                raise DataError(f"{'standard input' if file == '-' else file} is empty; give some text")
        except KeyboardInterrupt as stopped:
            _stopped(reader, session)
            raise SystemExit(exit_code(stopped)) from None
        except StorageError:
            raise
        except (DataError, OSError):  # between two pieces
            if session is not None and reader.offset:
                reader.save(session)
            raise
        if session is not None:
            reader.save(session)
    _receipt(reader, as_json, sys.stderr if lines or as_json else sys.stdout)


def _opened(file: str, stop: Interrupts) -> Any:
    """The input as an open binary file. Raises DataError."""
    from contextlib import nullcontext

    from siltstone.errors import DataError

    if file == "-":
        return nullcontext(typer.get_binary_stream("stdin"))
    try:
        with stop.waiting():  # opening a pipe blocks until a writer opens it
            return open(file, "rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; give a text file, or - for standard input") from None


def _place(reader: Reader, source: Any, file: str, offset: int | None, stop: Interrupts) -> int | None:
    """Set input and reader to the same byte. Returns the size of the input in bytes, or None if it is not known."""
    from siltstone.core.terminal import say
    from siltstone.errors import DataError

    known = reader.offset
    whole = file != "-" and source.seekable()
    if whole:
        size = source.seek(0, 2)
        reader.begin(known if offset is None else offset)
        if reader.offset > size:
            raise DataError(
                f"{file} has {size:,} bytes, and the next byte to read is {reader.offset:,}; give the same file, or --offset 0"
            )
        reader.check(source, file)
    else:
        size = None
        if offset is not None:
            reader.begin(offset)
            left = offset
            while left:
                with stop.waiting():
                    skipped = len(source.read(min(left, 1 << 20)))
                if not skipped:
                    raise DataError(f"standard input ended {left:,} bytes before --offset {offset:,}")
                left -= skipped
    if reader.session.position:
        where = "" if whole or offset is not None else f"; standard input must start there (--offset {known} skips to it)"
        say(f"{reader.session.position:,} tokens restored; resuming at byte {reader.offset:,}{where}")
    return size


def _stopped(reader: Reader, session: Path | None) -> None:
    from siltstone.core.terminal import say

    where = f"interrupted at byte {reader.offset:,}"
    if session is None:
        say(f"{where}; nothing is saved without --session")
        return
    reader.save(session)
    say(f"{where}; saved in {session}; the same command resumes there")


def _receipt(reader: Reader, as_json: bool, out: Any) -> None:
    from siltstone.core.machine import threads_said
    from siltstone.core.plain import json_line

    found = reader.receipt()
    for name, value in [*found.rows(), ("threads", threads_said())]:
        print(f"{name:<12} {value}", file=out)
    if as_json:
        print(json_line(found.to_dict() | {"threads": threads_said()}), flush=True)


class _Progress:
    """Prints bits per byte while the stream is read: on a terminal one live line, otherwise a line every `report` tokens (on
    standard error if standard output is for JSON). With `lines`, each line is printed after its bits per byte, or as JSON."""

    def __init__(self, report: int, lines: bool, size: int | None, as_json: bool) -> None:
        from siltstone.inference.reader import Cost

        self.report, self.lines, self.size, self.as_json = report, lines, size, as_json
        self.none = Cost()
        self.line, self.text, self.end, self.at, self.cut = self.none, "", "", 0, False
        self.recent = self.last = self.none
        self.live: Any = None

    def __enter__(self) -> _Progress:
        if sys.stdout.isatty() and not self.lines and not self.as_json:
            from rich.live import Live

            from siltstone.core.terminal import console

            self.live = Live(console=console(sys.stdout), refresh_per_second=8, redirect_stdout=False, redirect_stderr=False)
            self.live.start()
        return self

    def __exit__(self, failed: Any, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
        elif self.line.tokens and not failed:
            self._line()

    def show(self, reader: Reader, piece: bytes, cost: Cost) -> None:
        """One more piece was read."""
        if self.lines:
            if not self.line.tokens:  # only the first piece of a long line is shown
                self.text, self.at = piece.decode("utf-8", "replace").rstrip("\r\n"), reader.offset - len(piece)
                self.end = "" if piece.endswith(b"\n") else "…"
            self.cut = self.line.tokens > 0
            self.line += cost
            if piece.endswith(b"\n"):
                self._line()
            return
        self.recent += cost
        full = self.recent.tokens >= self.report
        if full:
            self.last, self.recent = self.recent, self.none
        if self.live is not None:
            from rich.text import Text

            self.live.update(Text(self._text(reader), no_wrap=True, overflow="ellipsis"))
        elif full:
            print(self._text(reader), file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def _line(self) -> None:
        from siltstone.core.plain import json_line
        from siltstone.core.terminal import shown

        bits = self.line.bits_per_byte
        if self.as_json:
            found = {"bits_per_byte": bits, "text": self.text, "cut": self.cut, "offset": self.at, "bytes": self.line.bytes}
            print(json_line(found | {"replaced": self.line.replaced}), flush=True)
        else:
            print(f"{bits:.3f}\t{shown(self.text, sys.stdout)}{self.end}", flush=True)
        self.line = self.none

    def _text(self, reader: Reader) -> str:
        from siltstone.inference.receipt import human

        share = f" ({reader.offset / self.size:.0%})" if self.size else ""
        newest = self.last if self.last.tokens else self.recent
        ms = reader.timeline.ms_per_token(last=True) or 0.0
        return (
            f"byte {reader.offset:,}{share}  {reader.cost.bits_per_byte:.4f} bits per byte (newest {newest.bits_per_byte:.4f})  "
            f"{ms:.3f} ms a token  session {human(reader.session.nbytes)}"
        )
