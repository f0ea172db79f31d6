"""`siltstone stream`: a trained model reads a stream of any length and prints its bits per byte."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siltstone.cli.arguments import THREADS, RunFolder, RuntimeName, SpillFolder, at_least, integer, output, path, text, unset
from siltstone.cli.sessions import SECONDS

if TYPE_CHECKING:
    from siltstone.inference.reader import Reader

ERRORS = (
    "strict: bytes that are not UTF-8 text, and zero bytes, are an error; replace: they are read as U+FFFD, counted, and cost "
    "8 more bits each. [default: strict; with --lines replace, so that one bad byte does not stop the monitoring of a log]"
)


def stream(
    run: RunFolder,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE|-]",
            help="Text to read, or - for standard input. [default: -] Several files are read together, each by its own session.",
            parser=text,
            show_default=False,
        ),
    ] = None,
    lines: Annotated[
        bool, typer.Option("--lines", help="Print the bits per byte of each line at once: an anomaly score for logs.")
    ] = False,
    session: Annotated[
        Path | None,
        unset(
            "Save the session in this file; resume from it if it exists. For several files, {name} is the name of each.",
            output,
            "FILE",
        ),
    ] = None,
    session_dir: Annotated[
        Path | None,
        unset("As --session with the file {name}.silt in this folder.", path, "DIR"),
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
    spill: SpillFolder = None,
) -> None:
    """Read a stream of any length in bounded memory, print bits per byte, and print a receipt at the end.

    With --session, an interrupted stream resumes from its last save: for a file, run the same command again.
    Standard input must continue at the byte that is printed at the start; if it starts at its first byte, use --offset to skip
    to that byte. Ctrl-C, SIGTERM, SIGHUP and a closed output save the session.

    With several files, results have the name of their file; each file has a line at the end, and one receipt follows for all.
    """
    from siltstone.cli.progress import Progress, print_receipt
    from siltstone.cli.sessions import kept_if_spilling_fails, open_session
    from siltstone.cli.source import opened, place
    from siltstone.cli.streams import Options, placed, read_together
    from siltstone.core.interrupt import Interrupts, exit_code
    from siltstone.errors import ConfigError, DataError, StorageError
    from siltstone.inference.pieces import pieces
    from siltstone.inference.reader import Reader

    errors = errors or ("replace" if lines else "strict")
    if errors not in ("strict", "replace"):
        raise ConfigError(f"--errors {errors!r} is not known; choose strict or replace")
    files = files or ["-"]
    places = placed(files, session, session_dir, offset)
    if len(files) > 1 and spill is not None:
        raise ConfigError(f"--spill is for one file, and {len(files)} were given; stream each by itself, or leave --spill out")
    if len(files) > 1:
        read_together(run, files, places, Options(lines, every, report, errors, as_json, SECONDS), (device, threads, runtime))
        return
    (file,), (session,) = files, places
    s = open_session(run, session, device, threads, runtime, spill)
    reader = Reader(s, errors)
    fresh = reader.session.position == 0
    with Interrupts() as stop, opened(file, stop) as source:
        try:
            size = place(reader, source, file, offset, stop)
            saved, start, at = 0, reader.offset, time.monotonic()
            with Progress(report, lines, size, as_json) as progress:
                for piece in pieces(source, lines, stop.waiting, reader.session.tokenizer):
                    with kept_if_spilling_fails(s, None if session is None else lambda: reader.save(session)):
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
    print_receipt(reader.receipt(), as_json, sys.stderr if lines or as_json else sys.stdout)


def _stopped(reader: Reader, session: Path | None) -> None:
    from siltstone.core.terminal import say

    where = f"interrupted at byte {reader.offset:,}"
    if session is None:
        say(f"{where}; nothing is saved without --session")
        return
    reader.save(session)
    say(f"{where}; saved in {session}; the same command resumes there")
