"""`siltstone lab`: trains the arms of a recipe on a token task, and writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import THREADS, integer, output, path, unset


def lab(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="smoke, easy, mqar, or FILE.py:FUNCTION.", show_default=False)],
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Folder of runs and results.", parser=path)] = Path("lab"),
    out: Annotated[Path | None, unset("The report, one HTML file; default: DIR/report.html.", output, "FILE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
) -> None:
    """Train arms beside each other on a token task, with matched parameters, and report what they recall.

    The same command again continues where it stopped. Each arm and seed becomes a run folder for `siltstone eval`. A recipe is
    a Python function without arguments that returns a `siltstone.train.lab.Lab`; the code of FILE.py is executed.
    """
    import shlex
    import sys

    from siltstone.cli.sessions import threads_to_config
    from siltstone.core.machine import check_threads, keep_freed_memory, threads_said
    from siltstone.core.plain import json_line
    from siltstone.io.atomic import check_place, make_folder, write_text
    from siltstone.report.lab import lab_report
    from siltstone.train.lab import found_recipe, run_lab

    check_threads(threads)
    made = found_recipe(recipe)
    threads_to_config(made.config(), threads)
    page = out or folder / "report.html"
    make_folder(folder)
    make_folder(page.parent)
    check_place(page)
    keep_freed_memory()
    found = run_lab(made, folder, lambda said: print(said, file=sys.stderr, flush=True))
    found["threads"] = threads_said()
    found["command"] = shlex.join(["siltstone", "lab", recipe, "--folder", str(folder)])
    write_text(page, lab_report(found))
    if as_json:
        print(json_line(found))
        return
    for run in found["runs"]:
        right = ", ".join(f"{share:.3f} at {length}" for length, share in run["right"].items())
        print(f"{run['arm']}, seed {run['seed']}: {right}; {run['costs']['state_bytes']:,} bytes of state")
    print(f"report: {page}")
