"""`siltstone ask`: documents are read once, and questions about them are answered."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siltstone.cli.arguments import THREADS, RunFolder, RuntimeName, SpillFolder, at_least, integer, output, path, unset

if TYPE_CHECKING:
    from siltstone.cli.sessions import Saves
    from siltstone.core.interrupt import Interrupts
    from siltstone.inference import Session
    from siltstone.inference.asking import Question
    from siltstone.inference.documents import Document
    from siltstone.inference.usage import Usage


def ask(
    run: RunFolder,
    questions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION]", help="Questions; each is asked apart from the others.", show_default=False),
    ] = None,
    doc: Annotated[
        list[Path] | None, unset("A text file to read; may be repeated. [default: those of the session]", path, "FILE")
    ] = None,
    session: Annotated[
        Path | None,
        unset("Save what was read in this file; if it exists, its documents are not read again.", output, "FILE"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens of an answer.", parser=at_least(1))] = 100,
    check: Annotated[
        bool, typer.Option("--check", help="Answer again without each passage, and say which ones change the answer (slow).")
    ] = False,
    reread: Annotated[
        bool | None,
        typer.Option(
            help="Read again, before a question, the passages that it attends to most. [default: if the model says which]",
            show_default=False,
        ),
    ] = None,
    begin: Annotated[
        list[str] | None,
        typer.Option(help="The first words of the answer; give one for each question.", show_default=False, metavar="TEXT"),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Use the plain template, and not that of the run.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Only JSON on standard output: one object a question, then the receipt.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
    runtime: RuntimeName = "auto",
    spill: SpillFolder = None,
) -> None:
    """Read documents once, in bounded memory, and answer questions about them, each on a fork of what was read.

    Answers are the most probable tokens. Where the model says what it attended to, an answer ends with the passages: file, lines,
    bytes and a quotation. With --session, documents that were read are not read again, and an interrupted reading continues.
    Ctrl-C, SIGTERM, SIGHUP and a closed output keep what was read. A receipt is printed at the end on standard error.
    """
    from siltstone.cli.quoting import quotable
    from siltstone.cli.sessions import Saves, open_session
    from siltstone.core.interrupt import Interrupts, exit_code
    from siltstone.core.terminal import say
    from siltstone.errors import InputError
    from siltstone.inference.asking import Question, attended, require_documents_alone, require_text
    from siltstone.inference.chat import Chat
    from siltstone.inference.documents import surveyed
    from siltstone.inference.usage import Usage

    questions, template = questions or [], "" if plain else None
    if not doc and session is None:
        raise InputError("no document is given; give one: --doc FILE, or --session FILE of a session that has read some")
    if not questions and session is None:
        raise InputError("no question is given; give one, or --session FILE to save what is read")
    if doc is None and session is not None and not session.exists():
        raise InputError(f"{session} does not exist, and no document is given; give one: --doc FILE")
    for text in questions:
        require_text(text)
    if begin and len(begin) != len(questions):
        raise InputError(
            f"--begin is given {len(begin)} times, and there are {len(questions)} questions; give one for each, or none"
        )
    with Interrupts() as stop:
        with stop.waiting():
            given = [surveyed(file) for file in doc or []]
            s = open_session(run, session, device, threads, runtime, spill)
            Chat(s, template=template)  # refuses a template that cannot be used
            says = attended(s) is not None
            if (check or reread) and not says:
                raise InputError(
                    f"this model does not say which passages it attends to; leave out --{'check' if check else 'reread'}, "
                    'or give a model with cache="blocks"'
                )
            if check:
                require_documents_alone(s)
        usage, saves = Usage(), Saves(None if session is None else lambda: s.save(session))
        try:
            _read(s, usage, stop, given, template, saves)
        except KeyboardInterrupt as stopped:
            if s.position:
                saves.now()
            kept = (
                f"saved in {session}; the same command continues" if session is not None else "nothing is saved without --session"
            )
            say(f"interrupted after {s.position:,} tokens; {kept}")
            raise SystemExit(exit_code(stopped)) from None
        if usage.read:
            saves.now()
        fresh = quotable(s)
        if (check or reread) and questions and not fresh:
            raise InputError("--check and --reread need the documents as they were read; leave these options out")
        wanted = Wanted(max_new_tokens, check, says and fresh and reread is not False, as_json, fresh)
        try:
            for text, first in zip(questions, begin or [""] * len(questions), strict=True):
                # one after the other: the fork of each may be as large as the session
                _answer(Question(s, text, template, first), usage, stop, wanted)
        except KeyboardInterrupt as stopped:
            say("interrupted" + (f"; {session} has what was read" if session is not None else ""))
            raise SystemExit(exit_code(stopped)) from None
    _receipt(s, usage, as_json)


@dataclass(frozen=True)
class Wanted:
    """Options of every answer.

    reread  the passages that a question attends to are read again
    fresh   the documents are as they were read, so that passages can be quoted
    """

    max_new_tokens: int
    check: bool
    reread: bool
    as_json: bool
    fresh: bool


def _read(s: Session, usage: Usage, stop: Interrupts, given: list[Document], template: str | None, saves: Saves) -> None:
    """Read the documents that the session lacks, with a progress bar. If one cannot be read, the earlier ones are saved."""
    from siltstone.errors import DataError
    from siltstone.inference.asking import begin
    from siltstone.inference.documents import lacking

    left = lacking(s, given)
    with _bar(sum(one.size - one.read for one in left)) as advance:
        if left:
            begin(s, template)
        for one in left:
            mark = s.snapshot()
            try:
                _read_one(s, usage, stop, one, saves, advance)
            except DataError:
                s.rollback(mark)
                if s.position or saves.made:  # not with a part of this document
                    saves.now()
                raise


def _read_one(s: Session, usage: Usage, stop: Interrupts, one: Document, saves: Saves, advance: Callable[[int], Any]) -> None:
    from siltstone.cli.sessions import kept_if_spilling_fails
    from siltstone.inference.documents import read

    source, at = read(s, one), one.read
    while True:
        with usage.measured(s), kept_if_spilling_fails(s, saves.save):
            done = next(source, None)
        if done is None:
            return
        advance(done - at)
        at = done
        saves.if_due()
        stop.check()


@contextmanager
def _bar(size: int) -> Iterator[Any]:
    """A bar for `size` bytes on standard error, if it is a terminal; yields a function that takes the bytes that were read."""
    if not size or not sys.stderr.isatty():
        yield lambda read: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from siltstone.core.terminal import console

    columns = "reading", BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(sys.stderr), transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("reading", total=size)
        yield lambda read: bar.advance(task, read)


def _answer(one: Question, usage: Usage, stop: Interrupts, wanted: Wanted) -> None:
    """Answers a question and prints the answer and its passages."""
    from siltstone.cli.quoting import line, or_warned, shower
    from siltstone.core.plain import json_line
    from siltstone.inference.asking import merged

    show = shower(stop, wanted.as_json)
    show(f"? {one.text}")
    began, said = time.perf_counter(), []
    with stop.waiting():
        again = (or_warned(one.attended_by_question) if wanted.reread else None) or []
        read = one.fork.position - one.session.position  # the question, if it was read for its passages
        read += one.read(again)
    usage.add(read, time.perf_counter() - began)
    before = usage.written
    with usage.measured(one.fork, writing=True):
        for piece in one.write(wanted.max_new_tokens):
            said.append(piece)
            show(piece, "")
            stop.check()
    answer, written = "".join(said), usage.written - before
    show("")
    found = or_warned(one.passages) if wanted.fresh else None
    found = None if found is None else merged(again, found)
    checks: list[Any] = []
    more = one.check(found or [], answer, wanted.max_new_tokens, again)
    for i, passage in enumerate(found or []):
        show(line(i, passage))
        if wanted.check:
            began = time.perf_counter()
            with stop.waiting():
                done = or_warned(lambda: next(more)) if len(checks) == i else None  # none after one that failed
            if done is not None:
                checks.append(done)
                usage.add(done.tokens, time.perf_counter() - began)
                show(f"     without it: {done.answer if done.changes else 'the same answer'}")
    if wanted.as_json:
        about: dict[str, Any] = {"question": one.text, "answer": answer, "tokens_read": read, "tokens_written": written}
        about["passages"] = None if found is None else [asdict(passage) for passage in found]
        about |= {"reread": [asdict(passage) for passage in again]} if wanted.reread else {}
        about |= {"without": [asdict(done) for done in checks]} if wanted.check else {}
        with stop.waiting(check=False):
            print(json_line(about), flush=True)


def _receipt(s: Session, usage: Usage, as_json: bool) -> None:
    from siltstone.cli.progress import print_usage
    from siltstone.core.words import counted
    from siltstone.inference.documents import documents

    known = documents(s)
    rows = [("documents", f"{counted(len(known), 'document')}, {counted(sum(one.size for one in known), 'byte')}")]
    told = [{name: value for name, value in asdict(one).items() if name != "marks"} for one in known]
    print_usage([*rows, *usage.rows(s)], {"documents": told} | usage.to_dict(s) if as_json else None)
