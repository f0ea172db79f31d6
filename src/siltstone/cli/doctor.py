"""`siltstone doctor`: checks that a model computes correct results, and that its gates and gradients work."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siltstone.cli import arguments
from siltstone.cli.arguments import THREADS, RunFolder, at_least, integer, output, path, unset, whole_numbers

if TYPE_CHECKING:
    from siltstone.doctor.findings import Finding


def doctor(
    run: RunFolder,
    text: Annotated[
        Path | None,
        unset("Text file for the examination. [default: the text of `siltstone demo`]", path, "FILE"),
    ] = None,
    tokens: Annotated[
        int | None,
        unset("Maximum number of tokens that each check reads. [default: at least four segments]", at_least(16), "INTEGER"),
    ] = None,
    told: Annotated[
        str | None,
        unset("Also tell a name and ask for it after so many tokens, for example 0,100,1000,10000 (slow).", str, "N,…"),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed for where texts are split into calls and which tokens get gradients.", parser=arguments.seed)
    ] = 0,
    out: Annotated[Path, typer.Option(help="File for the report.", metavar="FILE", parser=output)] = Path("doctor-report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the findings.")] = False,
) -> None:
    """Examine a model: are its results correct, do its gates select, how far do its gradients reach?

    The model reads the same text in all ways that must give the same logits. The gates of its caches, the reach of its
    gradients and the shares of sinks, window, blocks and memory in its outputs are measured. Each finding says what to do. Needs
    no download. The exit code is 0 if all ways of reading agree, and 1 otherwise; warnings do not change it. The shipped model
    takes one to two minutes on two cores; larger windows, segments and models take longer.
    """
    import sys

    from siltstone.cli.sessions import threads_to_size
    from siltstone.core.machine import keep_freed_memory, threads_said
    from siltstone.core.plain import json_line
    from siltstone.core.terminal import shown
    from siltstone.demo import run_folder
    from siltstone.doctor.run import diagnose
    from siltstone.errors import DataError

    if text is not None and (text.is_dir() or not text.exists()):
        raise DataError(f"--text {text} {'is a folder' if text.is_dir() else 'does not exist'}; give one text file")
    distances = whole_numbers("--told", told) or []
    threads_to_size(run_folder(run), threads)
    keep_freed_memory()
    record = diagnose(run_folder(run), text, tokens, seed, out, device=device, quiet=quiet, told=distances)
    if as_json:
        print(json_line(record.to_dict()))
    else:
        for finding in record.findings:
            print(shown(_line(finding), sys.stdout))
        print(shown(f"The report is {out} ({record.facts['seconds']:.0f} s in all, {threads_said()}).", sys.stdout))
    if not record.ok:
        raise SystemExit(1)


def _line(f: Finding) -> str:
    return f"{f.level:<8} {f.area:<9} {f.text}" + (f". {f.advice[:1].upper()}{f.advice[1:]}." if f.advice else "")
