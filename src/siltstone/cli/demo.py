"""`siltstone demo`: a trained model reads a long real text; the result is a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import THREADS, integer, number, output, path, unset


def demo(
    seconds: Annotated[float, typer.Option(help="Time for the whole demonstration.", parser=number)] = 240.0,
    tokens: Annotated[int, typer.Option(help="Maximum number of tokens to read.", parser=integer)] = 250_000,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder of another trained model. [default: the shipped model]", parser=path, show_default=False),
    ] = None,
    report: Annotated[Path, typer.Option(help="File for the report.", metavar="FILE", parser=output)] = Path("demo-report.html"),
    picture: Annotated[
        Path | None,
        unset("Also write the three curves to this SVG file, and to NAME-narrow.svg for narrow screens.", output, "FILE"),
    ] = None,
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
) -> None:
    """Read a long real text with a small trained model, and measure time and memory.

    The text is thousands of times longer than the window, and the cost of a token does not grow with the position. A transformer
    of the same size reads the same text for comparison, for a share of the time. A second model is told facts in the text and
    asked for them at its end. Then the session is forked, saved, and resumed in a new process, bit for bit. Needs no training
    and no network.
    """
    from siltstone.cli.sessions import threads_to_size
    from siltstone.core.machine import keep_freed_memory
    from siltstone.demo import demo_run, lookup_run
    from siltstone.demo.run import demonstrate

    lookup, run = lookup_run(), run or demo_run()
    threads_to_size(run, threads)
    keep_freed_memory()
    record = demonstrate(run, seconds, tokens, report, picture, lookup)
    if not record.resume["equal"]:
        raise SystemExit(1)
