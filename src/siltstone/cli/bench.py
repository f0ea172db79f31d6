"""`siltstone bench`: a table of speeds and sizes; the last line of the output is one JSON object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import output, path, unset


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter texts and fewer rounds; the figures are only rough.")] = False,
    threads: Annotated[str, typer.Option(help="Numbers of threads to measure with, for example 2,1.")] = "2,1",
    rules: Annotated[
        bool, typer.Option("--rules", help="Measure every update rule, compressor and cache instead, and other libraries.")
    ] = False,
    blocks: Annotated[
        Path | None,
        unset("Measure cache=blocks on this run folder instead: a token far into a text, reading, and bytes.", path, "RUN"),
    ] = None,
    json_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the JSON object to this file.", parser=output, show_default=False),
    ] = None,
) -> None:
    """Measure speed and size in comparison with the nearest alternatives (about forty minutes; --quick: three).

    The last line of the output is one JSON object. Run it on a quiet machine.
    """
    import json
    import sys

    from ..bench.run import run
    from ..core.machine import MOST, processors
    from ..errors import InputError
    from ..io.atomic import check_place, make_folder, write_json

    try:
        counts = tuple(int(t) for t in threads.split(","))
        if not counts or min(counts) < 1 or max(counts) > max(MOST, processors()):
            raise ValueError
    except ValueError:
        raise InputError(
            f"--threads {threads[:40]!r} must be whole numbers from 1 to {max(MOST, processors())}, separated by commas, "
            "for example 2,1"
        ) from None
    if json_out is not None:
        make_folder(json_out.parent)
        check_place(json_out)
    which = blocks if blocks is not None else "rules" if rules else "all"
    found = run(quick, counts, lambda text: print(text, file=sys.stderr, flush=True), which)
    if json_out is not None:
        write_json(json_out, json.loads(found))
    print(found)
