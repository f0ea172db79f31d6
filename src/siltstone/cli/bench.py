"""`siltstone bench`: the table of speeds and sizes; its last line is one JSON object."""

from __future__ import annotations

from typing import Annotated

import typer


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter texts and fewer rounds; figures only for a look.")] = False,
    threads: Annotated[str, typer.Option(help="Numbers of threads to measure with, as in 2,1.")] = "2,1",
) -> None:
    """Measure speed and size side by side with the nearest alternatives (about forty minutes; --quick: three).

    The last line of the output is one JSON object. Run it on a quiet machine.
    """
    from ..bench.run import run
    from ..errors import InputError

    try:
        counts = tuple(int(t) for t in threads.split(","))
        if not counts or min(counts) < 1:
            raise ValueError
    except ValueError:
        raise InputError(f"--threads {threads!r} must be whole numbers from 1, separated by commas, for example 2,1") from None
    typer.echo(run(quick, counts, lambda text: typer.echo(text, err=True)))
