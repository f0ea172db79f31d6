"""`siltstone doctor`: is a model right and healthy?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from siltstone.cli import arguments
from siltstone.cli.arguments import THREADS, at_least, integer, output, path

if TYPE_CHECKING:
    from siltstone.doctor.findings import Finding


def doctor(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a trained model; demo: the one that ships.", parser=path, show_default=False
        ),
    ],
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text file to examine it on. [default: what `siltstone demo` reads]",
            metavar="FILE",
            parser=path,
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens that each part reads, at most. [default: four segments and more]",
            parser=at_least(16),
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Decides where calls are cut and which tokens are differentiated.", parser=arguments.seed)
    ] = 0,
    out: Annotated[Path, typer.Option(help="Where the report goes.", metavar="FILE", parser=output)] = Path("doctor-report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the findings.")] = False,
) -> None:
    """Examine a model: are its results right, do its gates choose, do its gradients reach?

    The same text is read in every way that must give the same logits; the gates of its caches and the reach of its
    gradients are measured; and each finding says what to do. Needs no download. Exits with 0 if all ways of reading agree,
    with 1 otherwise; warnings about gates and gradients do not change that. The model that ships takes one to two minutes on
    two cores; larger windows, segments and models take longer.
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
        raise DataError(f"--text {text} is {'a folder' if text.is_dir() else 'not there'}; give one text file")
    threads_to_size(run_folder(run), threads)
    keep_freed_memory()
    record = diagnose(run_folder(run), text, tokens, seed, out, device, quiet)
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
