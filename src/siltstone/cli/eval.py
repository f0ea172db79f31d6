"""`siltstone eval`: tasks of memory on a trained model, with seeds and intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siltstone.cli.arguments import THREADS, RunFolder, at_least, integer, output, path, unset, whole_numbers

COSTED = 1024  # tokens after which bytes and FLOPs are counted: a model of this shape reads them


def eval(
    run: RunFolder,
    tasks: Annotated[str, typer.Option(metavar="A,B,…", help="Names of tasks; all: every text task; list: print them.")] = "told",
    lengths: Annotated[
        str | None, unset("Tokens of documents or distances, separated by commas; default: those of each task.", str, "N,…")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Seeds of the data.", parser=at_least(1))] = 3,
    items: Annotated[int, typer.Option(metavar="N", help="Items of each seed and length.", parser=at_least(1))] = 10,
    text: Annotated[
        list[Path] | None, unset("A text file that fills documents; may be repeated; default: generated prose.", path, "FILE")
    ] = None,
    meetings: Annotated[
        Path | None, unset("Meetings of QMSum for the task meetings, one a line; all needs it for that task.", path, "FILE")
    ] = None,
    beside: Annotated[
        str | None,
        unset(
            "Other forms of an imported decoder on the same texts: full, yarn, dynamic, window (of equal bytes), bm25, reread.",
            str,
            "A,B,…",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
    out: Annotated[Path | None, unset("Also write a report, one HTML file.", output, "FILE")] = None,
    device: Annotated[str, typer.Option(help="Device; auto: the GPU if there is one.")] = "auto",
    threads: Annotated[int | None, typer.Option(help=THREADS, parser=integer, show_default=False)] = None,
) -> None:
    """Try a model on tasks of memory: needles, stories, told names, repeats, facts, questions about
    meetings, anomalies of logs, and others.

    Text tasks ask any model, zero-shot; documents are streamed, and each question is asked on a fork. A token task needs a
    model that was trained on it. Figures have 95 % intervals.
    """
    from siltstone.cli.sessions import threads_to_size
    from siltstone.config import registry
    from siltstone.demo import run_folder

    known = registry.members("tasks")
    if tasks == "list":
        for name, cls in known.items():
            print(f"{name}: {cls.kind} task. {(cls.__doc__ or '').splitlines()[0]}")  # type: ignore[attr-defined]
        return
    wanted = tasks.split(",")
    if tasks == "all":
        texts = [name for name, cls in known.items() if cls.kind == "text"]  # type: ignore[attr-defined]
        wanted = [name for name in texts if name != "meetings" or meetings is not None]
    threads_to_size(run_folder(run), threads)
    _evaluate(
        run, wanted, whole_numbers("--lengths", lengths), (seeds, items), (text or [], meetings, beside), (as_json, out, device)
    )


def _evaluate(
    run: Path,
    wanted: list[str],
    lengths: list[int] | None,
    amount: tuple[int, int],
    given: tuple[list[Path], Path | None, str | None],
    shown: tuple[bool, Path | None, str],
) -> None:
    import shlex
    import sys

    from siltstone.core.machine import threads_said
    from siltstone.core.plain import json_line
    from siltstone.demo import run_folder
    from siltstone.errors import InputError
    from siltstone.eval.arms import route_at_random
    from siltstone.eval.beside import check, origin
    from siltstone.eval.costs import costs, trained_tokens
    from siltstone.eval.run import evaluate, make, trained_on
    from siltstone.io.atomic import check_place, make_folder, write_text
    from siltstone.models.checkpoint import load
    from siltstone.report.tasks import task_report
    from siltstone.text import read_blocks
    from siltstone.train.precision import chosen_device

    (as_json, out, device), (books, meetings, others) = shown, given
    folder = run_folder(run)
    learnt = trained_on(folder) or {}
    options = {learnt.get("task"): learnt.get("options")} | ({"meetings": {"file": str(meetings)}} if meetings else {})
    made = [make(name, options.get(name)) for name in wanted]
    for task in made:
        if task.kind == "token" and learnt.get("task") != task.name:
            raise InputError(
                f"{task.name} is a token task, and {run} was not trained on it; "
                "train a model with `siltstone lab`, or give a text task"
            )
    arms = [] if others is None else others.split(",")
    check(arms)
    if arms and not any(getattr(task, "compared", False) for task in made):
        raise InputError(f"--beside has no effect on {', '.join(wanted)}; give it with facts or told, or leave it out")
    decoder = origin(folder) if {*arms} - {"reread", "bm25"} else None
    if out is not None:
        make_folder(out.parent)
        check_place(out)
    model, tokenizer = load(folder, chosen_device(device))
    if learnt.get("routing") == "random":
        route_at_random(model, int(learnt["seed"]))
    texts = ["".join(read_blocks(file)) for file in books]
    seeds, items = amount
    found = evaluate(
        model.eval(),
        tokenizer,
        made,
        lengths,
        seeds,
        items,
        books=texts,
        say=lambda said: print(said, file=sys.stderr, flush=True),
        routing=str(learnt.get("routing", "learned")),
        origin=decoder,
        arms=arms,
    )
    words = ["siltstone", "eval", str(run), "--tasks", ",".join(wanted), "--seeds", str(seeds), "--items", str(items)]
    words += ["--lengths", ",".join(map(str, lengths))] if lengths is not None else []
    words += [word for file in books for word in ("--text", str(file))] + (["--meetings", str(meetings)] if meetings else [])
    words += ["--beside", others] if others is not None else []
    found |= {"model": str(run), "command": shlex.join(words), "threads": threads_said()}
    found["costs"] = {"length": COSTED, "tokens": trained_tokens(folder), **costs(model.cfg, COSTED)}
    if out is not None:
        write_text(out, task_report(found))
    if as_json:
        print(json_line(found))
        return
    for row in found["rows"]:
        reach = "" if row["low"] is None else f"  [{row['low']:.3f}, {row['high']:.3f}] {row['interval']}"
        at = ", ".join(f"{key} {value}" for key, value in row["at"].items())
        print(f"{row['task']}  {row['score']}  {at}:  {row['mean']:.3f}{reach}  n={row['count']}")
