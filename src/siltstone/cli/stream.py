"""`siltstone stream`: a run's model reads a stream of any length and says how well it foresaw it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from siltstone.stream.interrupt import Interrupts
    from siltstone.stream.reader import Cost, Reader

SECONDS = 30.0  # between two saves at most


def stream(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a trained model; demo: the one that ships.", show_default=False)
    ],
    file: Annotated[str, typer.Argument(metavar="[FILE|-]", help="Text to read, or - for standard input.")] = "-",
    lines: Annotated[
        bool, typer.Option("--lines", help="Print the bits per byte of each line, as it comes: an anomaly score for logs.")
    ] = False,
    session: Annotated[
        Path | None, typer.Option(help="Keep the session in this file, and go on from it where it is there.", show_default=False)
    ] = None,
    every: Annotated[
        int, typer.Option(help="With --session: save about every so many tokens (and every 30 seconds).", min=1)
    ] = 100_000,
    offset: Annotated[
        int | None,
        typer.Option(
            help="Skip so many bytes of the input. [default: with --session, as many of a file as were read]",
            min=0,
            show_default=False,
        ),
    ] = None,
    report: Annotated[int, typer.Option(help="Tokens between lines of progress.", min=1)] = 10_000,
    errors: Annotated[str, typer.Option(help="strict refuses bytes that are no UTF-8 text, replace reads U+FFFD.")] = "strict",
    as_json: Annotated[bool, typer.Option("--json", help="End with the receipt as one JSON object.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Threads of the processor to use. [default: all]", show_default=False)
    ] = None,
) -> None:
    """Read a stream of any length in bounded memory, printing bits per byte as it goes, and end with a receipt.

    With --session, the same command goes on where a stopped or killed one was saved: in a file by itself; standard input
    is taken to go on from the byte that is named at the start (or, fed from its beginning, skips with --offset to it).
    """
    from siltstone.errors import ConfigError, DataError, StorageError
    from siltstone.stream.interrupt import Interrupts
    from siltstone.stream.pieces import pieces
    from siltstone.stream.reader import Reader
    from siltstone.stream.terminal import open_session

    if errors not in ("strict", "replace"):
        raise ConfigError(f"--errors {errors!r} is not known; choose strict or replace")
    reader = Reader(open_session(run, session, device, threads), errors)
    fresh = reader.session.position == 0
    with Interrupts() as stop, _opened(file) as source:
        try:
            size = _place(reader, source, file, offset, stop)
            saved, start, at = 0, reader.offset, time.monotonic()
            with _Progress(report, lines, size) as progress:
                for piece in pieces(source, lines, stop.waiting, reader.session.tokenizer):
                    progress.show(reader, piece, reader.feed(piece))
                    due = reader.session.counters.appended - saved >= every or time.monotonic() - at >= SECONDS
                    if session is not None and due:
                        reader.save(session)
                        saved, at = reader.session.counters.appended, time.monotonic()
                    stop.check()
            if fresh and reader.offset == start:
                raise DataError(f"{'standard input' if file == '-' else file} is empty; give some text")
        except KeyboardInterrupt:
            _stopped(reader, session)
            raise typer.Exit(130) from None
        except StorageError:
            raise
        except (DataError, OSError):  # between two pieces
            if session is not None and reader.offset:
                reader.save(session)
            raise
        if session is not None:
            reader.save(session)
    _receipt(reader, as_json, sys.stderr if lines else sys.stdout)


def _opened(file: str) -> Any:
    """The input as an open binary file. Raises DataError."""
    from contextlib import nullcontext

    from siltstone.errors import DataError

    if file == "-":
        return nullcontext(typer.get_binary_stream("stdin"))
    try:
        return open(file, "rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}; give a text file, or - for standard input") from None


def _place(reader: Reader, source: Any, file: str, offset: int | None, stop: Interrupts) -> int | None:
    """Bring input and reader to the same byte; returns the size of the input where it is known."""
    from siltstone.errors import DataError

    known = reader.offset
    whole = file != "-" and source.seekable()
    if whole:
        size = source.seek(0, 2)
        reader.begin(known if offset is None else offset)
        if reader.offset > size:
            raise DataError(
                f"{file} has {size:,} bytes, and byte {reader.offset:,} is to be read next; give the same file, or --offset 0"
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
        where = "" if whole or offset is not None else f"; standard input is taken to go on there (--offset {known} skips to it)"
        print(
            f"siltstone: {reader.session.position:,} tokens restored; going on at byte {reader.offset:,}{where}",
            file=sys.stderr,
            flush=True,
        )
    return size


def _stopped(reader: Reader, session: Path | None) -> None:
    where = f"interrupted at byte {reader.offset:,}"
    if session is None:
        print(f"siltstone: {where}; nothing is saved without --session", file=sys.stderr)
        return
    reader.save(session)
    print(f"siltstone: {where}; saved in {session}, and the same command goes on from there", file=sys.stderr)


def _receipt(reader: Reader, as_json: bool, out: Any) -> None:
    import json

    found = reader.receipt()
    for name, value in found.rows():
        print(f"{name:<12} {value}", file=out)
    if as_json:
        print(json.dumps(found.to_dict()), flush=True)


class _Progress:
    """Bits per byte as the stream goes: one live line on a terminal, a line every `report` tokens elsewhere, or, by
    lines, each line behind its own bits per byte."""

    def __init__(self, report: int, lines: bool, size: int | None) -> None:
        from siltstone.stream.reader import Cost

        self.report, self.lines, self.size = report, lines, size
        self.none = Cost()
        self.line, self.text = self.none, ""
        self.recent = self.last = self.none
        self.live: Any = None

    def __enter__(self) -> _Progress:
        if sys.stdout.isatty() and not self.lines:
            from rich.live import Live

            self.live = Live(refresh_per_second=8, redirect_stdout=False, redirect_stderr=False)
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
            if not self.line.tokens:
                cut = "" if piece.endswith(b"\n") else "…"  # of a longer line the first piece is shown
                self.text = piece.decode("utf-8", "replace").rstrip("\r\n") + cut
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
            print(self._text(reader), flush=True)

    def _line(self) -> None:
        from siltstone.stream.terminal import shown

        print(f"{self.line.bits_per_byte:.3f}\t{shown(self.text, sys.stdout)}", flush=True)
        self.line = self.none

    def _text(self, reader: Reader) -> str:
        from siltstone.stream.receipt import human

        share = f" ({reader.offset / self.size:.0%})" if self.size else ""
        newest = self.last if self.last.tokens else self.recent
        ms = reader.timeline.ms_per_token(last=True) or 0.0
        return (
            f"byte {reader.offset:,}{share}  {reader.cost.bits_per_byte:.4f} bits per byte (newest {newest.bits_per_byte:.4f})  "
            f"{ms:.3f} ms a token  session {human(reader.session.nbytes)}"
        )
