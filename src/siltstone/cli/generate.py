"""`siltstone generate`: a trained model continues a text."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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
    integer,
    output,
    unset,
)


def generate(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue.", show_default=False)] = "",
    session: Annotated[
        Path | None,
        unset("Continue the session in this file (a new one if it does not exist), and save it there.", output, "FILE"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Maximum number of tokens to write.", parser=integer)] = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = None,
    top_p: TopP = 0.95,
    seed: Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Stop before this text; may be repeated.", metavar="TEXT", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
    runtime: RuntimeName = "auto",
    spill: SpillFolder = None,
) -> None:
    """Write text that continues a prompt, or a session.

    Only the new text is printed on standard output. Ctrl-C, SIGTERM, SIGHUP and a closed output stop the generation and save
    the session.
    """
    from siltstone.cli.sessions import kept_if_spilling_fails, open_session
    from siltstone.core.interrupt import Interrupts, exit_code
    from siltstone.core.terminal import say, shown
    from siltstone.errors import InputError, OutputError, SpillFailed
    from siltstone.inference.asking import read_prompt

    s = open_session(run, session, device, threads, runtime, spill)
    if not prompt and not s.position:
        raise InputError(f"the prompt is empty; give a PROMPT, for example: siltstone generate {run} 'The'")
    with Interrupts() as stop_asked:
        try:
            with stop_asked.waiting():
                with kept_if_spilling_fails(s, None if session is None else lambda: s.save(session)):
                    read_prompt(s, prompt)
        except KeyboardInterrupt as stopped:
            kept = f"; {session} is unchanged" if session is not None else ""
            say(f"interrupted while the prompt was read{kept}")
            raise SystemExit(exit_code(stopped)) from None
        unread: OutputError | SpillFailed | None = None
        try:
            for piece in s.generate(max_new_tokens, temperature, top_k, top_p, stop, seed):
                with stop_asked.waiting(check=False):
                    print(shown(piece, sys.stdout), end="", flush=True)
                stop_asked.check()
            stop_asked.check()
        except KeyboardInterrupt:
            pass
        except (OutputError, SpillFailed) as error:
            unread = error
        if session is not None:
            s.save(session)
        with stop_asked.waiting(check=False):
            print(flush=True)
        if stop_asked.number is not None:
            kept = f"; position {s.position:,} is saved in {session}" if session is not None else ""
            say(f"interrupted{kept}")
            raise SystemExit(exit_code(stop_asked))
        if unread is not None:
            raise unread
