"""`siltstone lab`: trains the arms of a recipe on a token task, and writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import THREADS, at_least, integer, number, output, path, unset

UNFINISHED = 75  # exit code if runs are missing: the same command continues


def lab(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="smoke, easy, small, mqar, mqar256, tricks, needles, far, or FILE.py:FUNCTION.",
            show_default=False,
        ),
    ],
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Folder of runs and results.", parser=path)] = Path("lab"),
    out: Annotated[Path | None, unset("The report, one HTML file; default: DIR/report.html.", output, "FILE")] = None,
    arm: Annotated[list[str] | None, unset("Only this arm; may be repeated; default: those of the recipe.", str, "NAME")] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Runs that are trained at the same time.", parser=at_least(1))] = 1,
    minutes: Annotated[
        float | None, unset("Stop after this time with checkpoints; the same command continues.", number, "MINUTES")
    ] = None,
    device: Annotated[str, typer.Option(help="Device; auto: the GPU if there is one.")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
) -> None:
    """Train arms beside each other on a token task, with matched parameters, and report what they recall.

    The same command again continues where it stopped, also after Ctrl-C; several commands may share a folder. The exit code is
    75 as long as runs are missing. Each arm and seed becomes a run folder for `siltstone eval`. A recipe is a Python function
    without arguments that returns a `siltstone.train.lab.Lab`; the code of FILE.py is executed.
    """
    import dataclasses
    import shlex
    import sys
    import time

    from siltstone.cli.sessions import threads_to_config
    from siltstone.core.machine import check_threads, keep_freed_memory, threads_said
    from siltstone.core.plain import json_line
    from siltstone.io.atomic import check_place, make_folder, write_text
    from siltstone.report.lab import lab_report
    from siltstone.train.lab import Way, found_recipe, run_lab

    check_threads(threads)
    deadline = None if minutes is None else time.time() + 60 * minutes
    made = found_recipe(recipe)
    made = dataclasses.replace(made, arms=tuple(arm)) if arm else made
    threads_to_config(made.config(), threads)
    page = out or folder / "report.html"
    make_folder(folder)
    make_folder(page.parent)
    check_place(page)
    keep_freed_memory()
    found = run_lab(made, folder, lambda said: print(said, file=sys.stderr, flush=True), Way(device, jobs, deadline))
    found["threads"] = threads_said()
    only = [word for name in arm or [] for word in ("--arm", name)]
    found["command"] = shlex.join(["siltstone", "lab", recipe, "--folder", str(folder), *only])
    write_text(page, lab_report(found))
    if as_json:
        print(json_line(found))
    for run in found["runs"] if not as_json else []:
        right = ", ".join(f"{share:.3f} at {length}" for length, share in run["right"].items())
        hits = ", ".join(f"{share:.3f} at {length}" for length, share in run["routing_hits"].items())
        hits = f"; routing hits {hits}" if hits else ""
        print(f"{run['arm']}, seed {run['seed']}: {right}; {run['costs']['state_bytes']:,} bytes of state{hits}")
    if not as_json:
        print(f"report: {page}")
    if found["missing"]:
        print(f"{len(found['missing'])} runs are not finished; the same command continues", file=sys.stderr)
        raise SystemExit(UNFINISHED)
