"""Long runs: every update rule reads a million random tokens and a million equal ones, and must stay finite, bounded and exact.

    python tools/soak.py [--tokens N] [--rules gated,delta] [--resume] [--out docs]      (`make soak`)

Each rule, with its defaults and with its variants, runs in a layer with a gated cache of logarithmic segments that restart or
carry on, in float32 and in bfloat16 (weights and products; states stay float32). The text is read in chunks;
its last thousand tokens are read a second time, token by token, from the same state. A run holds if

    finite    no output and no state is infinite or NaN
    bounded   the largest number in a state (online, checkpoints, span states) is, in the second half, at most 1.25 times that of
              the first; for rules whose states may grow (`bounded = False`) the growth is only reported
    exact     steps and chunks agree: max|difference| <= tolerance * max(1, max|value|), for reads and for states

Reads are compared before their norm: near zero, the norm would amplify rounding errors. In the constant row the rounding errors
of equal steps do not cancel but add up: there the tolerance is larger by n 2^-24 for the n steps of the tail.

Writes soak.json after every run and soak.md, a table, at the end; exit code 1 if a run does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from rich.progress import Progress
from torch import Tensor

import siltstone as st
from siltstone.config import registry
from siltstone.core.machine import keep_freed_memory, processor
from siltstone.io.atomic import write_json, write_text
from siltstone.layers import mixer

WIDTH, HEADS, SEGMENT, CHUNK, TAIL = 32, 2, 256, 4096, 1000
ROWS = ("random", "constant")
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
GROWTH = 1.25
STEEP = {"mlstm": 4.0}  # scale of exponential gates, which initially hardly exceed 1
UNITS = {"mlstm": 1}  # last columns of a checkpoint that hold the unit of the others, not a number of the state


class Run(NamedTuple):
    """One layer that reads both rows."""

    rule: str
    options: dict[str, Any]
    start: str
    compute: str

    @property
    def name(self) -> str:
        return f"{registry.label(self.rule, self.options)}, {self.start}, {self.compute}"

    def layer(self) -> Any:
        """The layer with its initial weights, always the same; exponential gates are scaled by `STEEP`."""
        torch.manual_seed(0)
        keys = {"memory": self.rule, "memory_options": self.options, "start": self.start, "segment": SEGMENT}
        layer: Any = st.MemoryCaching(WIDTH, heads=HEADS, window=0, write_delay=0, cache="gated", segments="logarithmic", **keys)
        with torch.no_grad():
            if self.rule in STEEP:
                layer.mix.memory.gates.weight.mul_(STEEP[self.rule])
        return layer.to(getattr(torch, self.compute)).eval()


def name_of(row: dict[str, Any]) -> str:
    """The name of the run of a row."""
    return Run(row["rule"], row["options"], row["start"], row["compute"]).name


def runs(rules: list[str] | None = None) -> list[Run]:
    """All runs, or those of some rules."""
    settings = [(name, options) for name, options in registry.settings("memory") if rules is None or name in rules]
    return [Run(*s, start, compute) for s in settings for start in ("carry", "restart") for compute in TOLERANCE]


def text(tokens: int) -> Iterator[Tensor]:
    """[2, n, D] in chunks: a row of noise, and a row that repeats one token. The tail comes last, as its own chunk."""
    noise = torch.Generator().manual_seed(1)
    same = torch.randn(1, 1, WIDTH, generator=noise)
    tail, chunk = min(TAIL, tokens // 2), min(CHUNK, -(-tokens // 16))
    for n in [min(chunk, tokens - tail - at) for at in range(0, tokens - tail, chunk)] + [tail]:
        yield torch.cat([torch.randn(1, n, WIDTH, generator=noise), same.expand(1, n, WIDTH)])


def largest(state: Any, units: int = 0) -> Tensor:
    """[2]: the largest magnitude in each row's memory, checkpoints and span states; not in sums of routing keys, which grow.

    units: number of last columns of checkpoints to ignore.
    """
    parts = []
    for name, x in state.tensors().items():
        if ".online." in name or ".runners." in name:
            parts.append(x)
        elif ".stages." in name:
            parts.append(x[..., : x.shape[-1] - units])
    return torch.stack([x.flatten(1).abs().amax(1).double() for x in parts if x.numel()]).amax(0)


def apart(got: Tensor, want: Tensor) -> Tensor:
    """[2]: max|difference| / max(1, max|value|) of each row."""
    difference, size = ((x.double().flatten(1).abs()).amax(1) for x in (got.double() - want.double(), want))
    return difference / size.clamp(min=1.0)


@torch.no_grad()
def soak(run: Run, tokens: int, step: Callable[[int], None] = lambda n: None) -> list[dict[str, Any]]:
    """The results of both rows."""
    layer, kind = run.layer(), getattr(torch, run.compute)
    state = before = layer.init_state(2)
    peaks, x = torch.zeros(2, 2, dtype=torch.double), torch.empty(0)
    lost: list[int | None] = [None, None]
    for x in text(tokens):
        x, before, at = x.to(kind), state, int(state.position[0])
        outputs, state = layer(x, before)
        most, fine = largest(state, UNITS.get(run.rule, 0)), outputs.isfinite().all(-1)
        for row in range(2):
            if lost[row] is None and not (fine[row].all() and most[row].isfinite()):
                lost[row] = at + int(fine[row].long().argmin() if not fine[row].all() else x.shape[1] - 1)
        half = int(2 * at >= tokens)
        peaks[half] = peaks[half].maximum(most)
        step(x.shape[1])
        if None not in lost:
            break
    off = by_steps(layer, x, before) if None in lost else None
    found = []
    for row, name in enumerate(ROWS):
        alive = lost[row] is None
        growth = float(peaks[1, row] / peaks[0, row].clamp(min=1e-30)) if alive else None
        found.append(
            run._asdict()
            | {"input": name, "tokens": tokens, "lost": lost[row], "largest": float(peaks[1, row]) if alive else None}
            | {"growth": growth, "apart": float(off[row]) if alive and off is not None else None}
        )
        found[-1]["verdict"] = verdict(found[-1])
    return found


def by_steps(layer: Any, x: Tensor, before: Any) -> Tensor:
    """[2]: the difference between the tail read token by token and the tail read at once."""
    with patch.object(mixer, "rms", lambda read, weight, eps: read):
        whole, after = layer(x, before)
        parts, state = [], before
        for t in range(x.shape[1]):
            y, state = layer(x[:, t : t + 1], state)
            parts.append(y)
    ends = [apart(a, b) for a, b in zip(state.tensors().values(), after.tensors().values(), strict=True) if a.numel()]
    return torch.stack([apart(torch.cat(parts, 1), whole), *ends]).amax(0)


def verdict(row: dict[str, Any]) -> str:
    """ "holds", or the reason why not."""
    bounded = registry.member("memory", row["rule"]).bounded
    if row["lost"] is not None:
        return f"not finite from token {row['lost']:,} on"
    if row["growth"] > GROWTH and bounded:
        return f"grows by {row['growth']:.3g}"
    allowed = TOLERANCE[row["compute"]] + (TAIL * 2.0**-24 if row["input"] == "constant" else 0.0)
    return "holds" if row["apart"] <= allowed else f"steps differ by {row['apart']:.1e}, allowed {allowed:.1e}"


def page(found: dict[str, Any]) -> str:
    """The table."""
    head = f"""# Long runs

Generated by `make soak`; do not edit. Every update rule reads {found["tokens"]:,} tokens in chunks of {CHUNK:,} (width {WIDTH},
{HEADS} heads, a gated cache with logarithmic segments of {SEGMENT}). One row is random noise; the other row repeats one token.

- *largest*: the largest number in the memory, its checkpoints and span states, in the second half of the text.
- *growth*: the same number divided by that of the first half. States of rules with "may grow" are not bounded.
- *difference*: the last {TAIL:,} tokens are read again one by one from the same state. This is the largest difference of reads or
  states, divided by max(1, max|value|). Allowed are {TOLERANCE["float32"]:.0e} in float32, plus {TAIL} * 2^-24 in the constant
  row, where rounding errors add up; and {TOLERANCE["bfloat16"]:.0e} where weights and products are bfloat16.
- The exponential gates of `mlstm` are made {STEEP["mlstm"]:.0f} times steeper than initialised. Its stabiliser is one of its
  numbers.

torch {found["torch"]}, {found["processor"]}.

"""
    lines = ["| rule | start | numbers | text | largest | growth | difference | |", "|---|---|---|---|---|---|---|---|"]

    def figure(x: float | None, form: str) -> str:
        return "-" if x is None else format(x, form)

    for row in found["rows"]:
        grows = "" if registry.member("memory", row["rule"]).bounded else " (may grow)"
        cells = [registry.label(row["rule"], row["options"]), row["start"], row["compute"], row["input"]]
        cells += [figure(row["largest"], ".3g"), figure(row["growth"], ".2f") + grows, figure(row["apart"], ".1e")]
        lines.append("| " + " | ".join([*cells, row["verdict"]]) + " |")
    return head + "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    """The tool."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--tokens", type=int, default=1_000_000, help="tokens per row (default 1,000,000)")
    parse.add_argument("--rules", help="names of update rules, separated by commas (default: all)")
    parse.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs", help="folder of the results")
    parse.add_argument("--resume", action="store_true", help="keep the results that the folder already holds")
    args = parse.parse_args(words)
    if args.tokens < 2:
        parse.error("--tokens must be at least 2")
    rules = None if args.rules is None else args.rules.split(",")
    if unknown := set(rules or ()) - set(registry.members("memory")):
        parse.error(f"--rules {min(unknown)!r} is not known; choose from {', '.join(registry.members('memory'))}")
    keep_freed_memory()
    todo, path = runs(rules), args.out / "soak.json"
    about = {"tokens": args.tokens, "torch": torch.__version__, "processor": processor()}
    found: dict[str, Any] = about | {"rows": []}
    if args.resume and path.is_file():
        old = json.loads(path.read_text("utf-8"))
        found["rows"] = old["rows"] if about.items() <= old.items() else []
    with Progress(transient=True) as progress:
        whole = progress.add_task("soak", total=len(todo) * args.tokens)
        for n, run in enumerate(todo):
            progress.update(whole, description=run.name, completed=n * args.tokens)
            if not any(run._asdict().items() <= row.items() for row in found["rows"]):
                found["rows"] += soak(run, args.tokens, lambda n: progress.advance(whole, n))
                write_json(path, found)
    place = {run.name: i for i, run in enumerate(runs())}
    found["rows"].sort(key=lambda row: place[name_of(row)])
    write_json(path, found)
    write_text(args.out / "soak.md", page(found))
    bad = [row for row in found["rows"] if row["verdict"] != "holds"]
    for row in bad:
        print(f"{name_of(row)}, {row['input']}: {row['verdict']}")
    print(f"{len(found['rows']) - len(bad)} of {len(found['rows'])} hold; the table is {args.out / 'soak.md'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
