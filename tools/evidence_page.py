"""Writes docs/evidence.md from the committed results in docs/evidence: what `siltstone lab --json` or `compare --json` printed.

`add FILE NAME` copies a result there, without what the page does not need. `measure NAME` measures the costs of its arms again.
A result of `lab` may have "notes", paragraphs for below its table, and its runs "loads", {length: [load]}, where each length was
tried with one load alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import generated_page

from siltstone.eval.intervals import spoken

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs" / "evidence.md", ROOT / "docs" / "evidence"
KEPT = ("right", "routing_hits", "costs", "arm", "seed", "steps", "tokens", "seconds", "device")
OPTIONAL = ("loads", "source")  # source: where figures of a run come from, if not from its result file
COSTS = ("parameters", "state_bytes", "bytes_read", "flops")
HEADS = ("training tokens", "parameters", "state bytes", "bytes read a token", "FLOPs a token")
LIMITS = """## What caching does not do

- It does not by itself make a small model recall. What a model recalls in text depends on the text it was trained on; figures
  on token tasks say nothing about that.
- It does not replace attention where attention fits: at the trained length, no arm here is better than a transformer that sees
  all of the text and has learnt the task.
- It does not pay where a plain state is large enough: with eight pairs, the plain recurrence above answers nearly as many
  questions as the gated cache, in a quarter of the bytes.
- It is not always learnt. With up to 64 pairs in 256 tokens from the start, no gated, sparse or soup model learnt to recall in
  7.7 minutes on one core; the exact cache did in some seeds, and the transformer in most. With few pairs first they learnt it,
  and one larger state of the same bytes learnt it better in each of five seeds, also beyond the trained length.
- A hard choice of few checkpoints is often not learnt ([recall](recall.md)). Taught by what is read of checkpoints it was learnt
  with 512 tokens of needles, and then held in 65,536; it was not learnt with larger segments and smaller batches. Compare
  "routing hits" with random routing, and right answers with oracle routing.
- Logarithmic segments merge old checkpoints: the authors of the method report less recall with them (arXiv 2602.24281, table 2).
- It does not bound the state: with constant segments, it grows by one checkpoint a segment. A budget bounds it, and forgets.
"""


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _lab(found: dict[str, Any]) -> str:
    lab, runs = found["lab"], found["runs"]
    arms = {arm: [run for run in runs if run["arm"] == arm] for arm in dict.fromkeys(run["arm"] for run in runs)}
    single = any("loads" in run for run in runs)
    recipe, seeds = lab["recipe"], len({run["seed"] for run in runs})
    ends = [f"{recipe['steps']:,} steps"] if recipe["steps"] else []
    ends += [f"{recipe['minutes']:g} minutes"] if recipe["minutes"] else []
    warning = " **One seed: differences between arms may be chance.**" if seeds == 1 else ""
    each = "a length and seed, of one load" if single else "a length, load and seed"
    about = (
        f"Task `{lab['task']}` with {json.dumps(lab['options'])}; trained on streams of "
        f"{', '.join(map(str, lab['train']))} tokens, {' or '.join(ends)} of {recipe['batch']} rows; "
        f"{lab['items']} test streams {each}; seeds: {seeds}.{warning} "
        f"Device: {', '.join(sorted({run['device'] for run in runs}))}."
    )
    tables = _by_seed(arms) if single else [_by_arm(arms)]
    return "\n\n".join([f"## {lab['question']}", about, f"Command: `{found['command']}`", *tables, *found.get("notes", [])])


def _by_arm(arms: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each arm: right answers by length, mean and each seed, routing hits, costs."""
    lengths = [*next(iter(arms.values()))[0]["right"]]
    rows = []
    for arm, some in arms.items():
        cells = [arm]
        for length in lengths:
            each = [run["right"][length] for run in some]
            cells.append(spoken(each))
        hits = [f"{n}: {sum(r['routing_hits'][n] for r in some) / len(some):.3f}" for n in some[0]["routing_hits"]]
        rows.append([*cells, "; ".join(hits) or "-", *_costs(some[0])])
    heads = ["arm", *(f"right at {n} tokens: mean ± 95 % interval over seeds (each seed)" for n in lengths), "routing hits"]
    return _table([*heads, *HEADS], rows)


def _by_seed(arms: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Results whose loads differ between seeds: a column for each seed, and a table of costs. No means."""
    seeds = {run["seed"]: run["loads"] for some in arms.values() for run in some}
    lengths = [*next(iter(arms.values()))[0]["right"]]
    rows = []
    for arm, some in arms.items():
        by = {run["seed"]: f"{_right(run)} ({run['steps']:,})" for run in some}
        rows.append([arm, *(by.get(seed, "-") for seed in sorted(seeds))])
    heads = [f"seed {seed}: {', '.join(str(*seeds[seed][n]) for n in lengths)} pairs" for seed in sorted(seeds)]
    about = f'Right at {", ".join(lengths)} tokens, and in brackets the steps of training; "-": not trained.'
    costs = _table(["arm", *HEADS], [[arm, *_costs(some[0])] for arm, some in arms.items()])
    return [about, _table(["arm", *heads], rows), costs]


def _right(run: dict[str, Any]) -> str:
    return ", ".join(f"{share:.3f}" for share in run["right"].values())


def _costs(run: dict[str, Any]) -> list[str]:
    return ["-" if run["tokens"] is None else f"{run['tokens']:,}", *(f"{run['costs'][key]:,}" for key in COSTS)]


def _compare(found: dict[str, Any]) -> str:
    entries = found["entries"]
    heads = ["position", *(e["name"] for e in entries), *(f"{e['name']} less {entries[0]['name']}" for e in entries[1:])]
    rows = []
    for i, bucket in enumerate(entries[0]["buckets"]):
        cells = [f"{bucket['from']:,} to {bucket['to']:,}", *(f"{e['buckets'][i]['bits_per_byte']:.4f}" for e in entries)]
        for other in (e["buckets"][i] for e in entries[1:]):
            reach = "" if other["low"] is None else f" ({other['low']:+.4f} to {other['high']:+.4f})"
            cells.append(f"{other['difference']:+.4f}{reach}")
        rows.append(cells)
    about = f"{found['parts']} parts of {found['length']:,} tokens; in brackets, 95 % intervals over parts."
    return f"## Bits per byte by position\n\n{about}\n\nCommand: `{found['command']}`\n\n{_table(heads, rows)}"


def page() -> str:
    """The page."""
    parts = [
        "# Evidence",
        "Generated by `python tools/evidence_page.py` from `docs/evidence/`; do not edit. [Evaluation](evaluation.md) describes "
        "tasks, arms and costs. Each command repeats its table, unless the text says otherwise.",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text("utf-8"))
        parts.append(_lab(found) if "runs" in found else _compare(found))
    return "\n\n".join([*parts, LIMITS])


def add(file: Path, name: str) -> None:
    """Copies a result to docs/evidence/NAME.json."""
    found = json.loads(file.read_text("utf-8"))
    if "runs" in found:
        runs = [{k: r[k] for k in KEPT} | {k: r[k] for k in OPTIONAL if k in r} for r in found["runs"]]
        notes = {"notes": found["notes"]} if "notes" in found else {}
        found = {"command": found["command"], "lab": found["lab"], **notes, "runs": runs}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def measure(name: str) -> None:
    """Writes the costs of each arm of docs/evidence/NAME.json, as they are counted now."""
    from siltstone.eval.arms import configured
    from siltstone.eval.costs import costs
    from siltstone.train.lab import chosen_arms
    from siltstone.train.lab_recipe import Lab

    file = RESULTS / f"{name}.json"
    found = json.loads(file.read_text("utf-8"))
    lab = Lab.from_dict(found["lab"])
    arms, length = chosen_arms(lab), max(lab.train)
    now = {arm: costs(configured(lab.config(), arms[arm], length), length) for arm in {run["arm"] for run in found["runs"]}}
    for run in found["runs"]:
        run["costs"] = now[run["arm"]]
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"] and len(sys.argv) == 3:
        measure(sys.argv[2])
    elif sys.argv[1:2] == ["add"] and len(sys.argv) == 4:
        add(Path(sys.argv[2]), sys.argv[3])
    else:
        generated_page.main(PAGE, page, __doc__, "the results in docs/evidence")
