"""`siltstone chat`: a conversation, one line of standard input a turn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siltstone.cli.arguments import (
    THREADS,
    RunFolder,
    RuntimeName,
    Seed,
    SpillFolder,
    Temperature,
    TopK,
    TopP,
    at_least,
    integer,
    output,
    unset,
)

if TYPE_CHECKING:
    from siltstone.core.interrupt import Interrupts
    from siltstone.inference.chat import Chat
    from siltstone.inference.usage import Usage

LONGEST = 1 << 20  # bytes of a line


def chat(
    run: RunFolder,
    session: Annotated[
        Path | None,
        unset("Continue the conversation in this file (a new one if it does not exist), and save it there.", output, "FILE"),
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message at the beginning of a conversation.", show_default=False)
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Use the plain template, and not that of the run.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens of a reply.", parser=at_least(1))] = 400,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    seed: Seed = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Only JSON on standard output: one object a turn, then the receipt.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
    runtime: RuntimeName = "auto",
    spill: SpillFolder = None,
) -> None:
    """Talk with a model: a line of standard input is a turn, and the reply is printed as it is written.

    Behind documents that `siltstone ask` read, a reply ends with the passages that it attended to, where the model says which.

    Turns are written by the chat template of the run; without one, as "User: TEXT", "Assistant: TEXT", a line each. Each turn
    reads its new tokens only, so that a conversation has no length. The end of the input, Ctrl-C, SIGTERM, SIGHUP and a closed
    output end the conversation and save the session; the same command continues it. A receipt is printed at the end on standard
    error.
    """
    from siltstone.cli.progress import print_usage
    from siltstone.cli.quoting import quotable
    from siltstone.cli.sessions import Saves, kept_if_spilling_fails, open_session
    from siltstone.core.interrupt import Interrupts, exit_code
    from siltstone.core.terminal import say
    from siltstone.errors import OutputError, SiltstoneError, StorageError
    from siltstone.inference.asking import attended
    from siltstone.inference.chat import Chat
    from siltstone.inference.documents import documents, under
    from siltstone.inference.usage import Usage

    s = open_session(run, session, device, threads, runtime, spill)
    talk, usage = Chat(s, system, "" if plain else None), Usage()
    for one in documents(s):
        if one.read < one.size:
            say(f"warning: {one.path} was read in part; `siltstone ask` reads the rest, but not behind a conversation")
    quotes = under(s) and attended(s) is not None and quotable(s)
    saves = Saves(None if session is None else lambda: s.save(session))
    if talk.turns:
        say(f"{s.position:,} tokens restored, after {talk.turns:,} turns")
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "max_new_tokens": max_new_tokens}
    with Interrupts() as stop:
        failure: Exception | None = None
        try:
            for line in _lines(stop):
                with kept_if_spilling_fails(s, saves.save):
                    _turn(talk, usage, stop, line, options | {"seed": seed}, quotes, as_json)
                seed = None
                saves.if_due()
        except KeyboardInterrupt:
            pass
        except StorageError:
            raise
        except SiltstoneError as error:
            failure = error
        if s.position:
            saves.now()
        shown = as_json and not isinstance(failure, OutputError)
        rows = [("turns", f"{talk.turns:,}"), *usage.rows(s)]
        print_usage(rows, {"turns": talk.turns} | usage.to_dict(s) if shown else None)
        if stop.number is not None:
            say(f"interrupted{f'; turn {talk.turns:,} is saved in {session}' if session is not None and talk.turns else ''}")
            raise SystemExit(exit_code(stop))
        if failure is not None:
            raise failure


def _lines(stop: Interrupts) -> Iterator[str]:
    """The lines of standard input that are not empty. Raises DataError for one that is not text."""
    from siltstone.errors import DataError

    source, asks = typer.get_binary_stream("stdin"), sys.stdin.isatty()
    while True:
        with stop.waiting():
            if asks:
                print("> ", end="", file=sys.stderr, flush=True)
            line = source.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise DataError(f"a line of standard input has more than {LONGEST:,} bytes; give long texts to `siltstone ask --doc`")
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"a line of standard input is not valid UTF-8 ({error.reason}); convert it first") from None
        if text:
            yield text


def _turn(talk: Chat, usage: Usage, stop: Interrupts, line: str, options: dict[str, Any], quotes: bool, as_json: bool) -> None:
    """One turn: reads it, and prints the reply and, if `quotes`, the passages that it attended to."""
    from siltstone.cli import quoting
    from siltstone.core.plain import json_line
    from siltstone.inference.asking import quotations
    from siltstone.inference.documents import under

    show = quoting.shower(stop, as_json)
    if quotes:
        talk.session.watch()
    with stop.waiting(), usage.measured(talk.session):
        read = talk.read(line)
    before, said, passages = usage.written, [], None
    try:
        with usage.measured(talk.session, writing=True):
            for piece in talk.reply(**options):
                said.append(piece)
                show(piece, "")
                stop.check()
        if quotes:
            passages = quoting.or_warned(lambda: quotations(talk.session))
    finally:
        show("")
        for i, passage in enumerate(passages or []):
            show(quoting.line(i, passage))
        if as_json:
            found = {"turn": talk.turns, "user": line, "assistant": "".join(said), "tokens_read": read}
            found |= {"tokens_written": usage.written - before, "whole": talk.whole}
            if under(talk.session):
                found["passages"] = None if passages is None else [asdict(one) for one in passages]
            with stop.waiting(check=False):
                print(json_line(found), flush=True)
