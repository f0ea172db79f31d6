"""Does a token find the checkpoint that it needs? Small models learn to recall pairs, with each way of routing and without.

    python tools/recall.py [--seeds 0,1] [--arms "gated;sparse"] [--out docs]     (about 4 minutes per arm and seed, on one core)

Multi-query associative recall (MQAR, arXiv 2312.04927): 64 pairs of a key and a value, then every key once more, in any order
among fillers; the model must answer with the value. 256 tokens, a vocabulary of 512, segments of 16 tokens: a pair is sealed
into one of eight checkpoints long before its key comes again. Reported is the share of right answers on new streams.

The ways of routing are compared with full attention, the window alone, the memory without checkpoints, a memory whose state is as
large as those of 16 checkpoints together, and checkpoints selected at random. Writes recall.json after every run, and at the end
recall.md and recall.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from family_pictures import STYLE, text
from rich.progress import track
from torch import Tensor

import siltstone as st
from siltstone.cache.base import Router
from siltstone.core.machine import keep_freed_memory
from siltstone.io.atomic import write_json, write_text

TOKENS, VOCABULARY, ROWS, PAIRS, STEPS = 256, 512, 16, 64, 2700
KEYS: dict[str, Any] = dict(
    vocab_size=VOCABULARY, d_model=64, heads=2, head_dim=16, depth=2, mlp="gelu", mlp_dim=128, tie=False, short_conv=4
)  # fmt: skip
SEALED: dict[str, Any] = dict(window=0, write_delay=0, memory="gated", segment=16, segments="constant")
SPARSE, BLOCKS = SEALED | dict(cache="sparse", top_k=2), dict(router="subblock:4")
ARMS: dict[str, dict[str, Any]] = {
    "full attention": dict(pattern="a"),
    "window of 16 alone": dict(pattern="w", window=16),
    "no checkpoints": dict(window=0, write_delay=0, memory="gated", cache="none"),
    "no checkpoints, a state as large as 16": dict(window=0, write_delay=0, memory="gated", cache="none", head_dim=64),
    "residual: all checkpoints, no gates": SEALED | dict(cache="residual"),
    "gated, mean": SEALED,
    "gated, subblock:4": SEALED | BLOCKS,
    "sparse top-2, at random": SPARSE,
    "sparse top-2, mean": SPARSE,
    "sparse top-2, mean, shared": SPARSE | dict(routing="shared"),
    "sparse top-2, subblock:4": SPARSE | BLOCKS,
    "sparse top-2, subblock:4, shared": SPARSE | BLOCKS | dict(routing="shared"),
}


def batch(rows: int, by: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """ids [rows, TOKENS], and for each pair the place where its key comes again and the value [rows, PAIRS]."""
    half = VOCABULARY // 2
    keys = torch.rand(rows, half - 1, generator=by).topk(PAIRS, -1).indices + 1
    values = torch.randint(half, VOCABULARY, (rows, PAIRS), generator=by)
    places = torch.rand(rows, TOKENS - 2 * PAIRS, generator=by).topk(PAIRS, -1).indices + 2 * PAIRS
    ids = torch.zeros(rows, TOKENS, dtype=torch.long)
    ids[:, : 2 * PAIRS] = torch.stack([keys, values], -1).flatten(1)
    return ids.scatter_(1, places, keys), places, values


def answers(model: st.LM, ids: Tensor, places: Tensor) -> Tensor:
    """Logits at these places [rows, PAIRS, VOCABULARY]."""
    hidden, _ = model.features(ids)
    return model.head(hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1])))


def train(arm: str, seed: int, steps: int) -> dict[str, Any]:
    """One model, its share of right answers, and the bytes of its state after a stream."""
    torch.manual_seed(seed)
    model = st.LM(st.LMConfig.from_dict(KEYS | ARMS[arm]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1.0, (i + 1) / 50) * (0.05 + 0.475 * (1 + math.cos(math.pi * i / steps)))
    )
    by, began = torch.Generator().manual_seed(1 + seed), time.perf_counter()
    for _ in track(range(steps), description=f"{arm}, seed {seed}", transient=True):
        ids, places, values = batch(ROWS, by)
        loss = F.cross_entropy(answers(model, ids, places).flatten(0, 1), values.flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rate.step()
    with torch.no_grad():
        ids, places, values = batch(256, torch.Generator().manual_seed(5))
        right = float((answers(model, ids, places).argmax(-1) == values).float().mean())
        state = model(ids[:1])[1].nbytes
    seconds = round(time.perf_counter() - began, 1)
    return {"arm": arm, "seed": seed, "steps": steps, "right": right, "state_bytes": state, "seconds": seconds}


def by_chance(router: Router, u: Tensor, summary: Tensor, empty: Tensor | None) -> Tensor:
    """Random scores [R, Q, N]."""
    return torch.rand(*u.shape[:2], summary.shape[1])


def drawn(rows: list[dict[str, Any]]) -> str:
    """recall.svg: a bar from the worst to the best seed of each arm, one dot per seed."""
    left, right, step = 12.0, 366.0, 36.0
    shown = [(arm, [row["right"] for row in rows if row["arm"] == arm]) for arm in ARMS]
    shown = [(arm, found) for arm, found in shown if found]
    bottom = 40 + step * len(shown)
    box = f'width="384" height="{bottom + 24:.0f}"'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 384 {bottom + 24:.0f}" role="img">'
    out = [f"{start}<style>{STYLE} circle {{ fill: var(--a); }}</style>"]
    out.append(f'<rect class="paper" {box} rx="8"/>' + text(12, 20, "Right answers, a dot for each seed", "title"))
    for share in (0.0, 0.5, 1.0):
        x = left + (right - left) * share
        out.append(f'<line x1="{x}" x2="{x}" y1="34" y2="{bottom}"/>' + text(x, bottom + 16, f"{share:g}", anchor="middle"))
    for i, (arm, found) in enumerate(shown):
        y, places = 40 + step * (i + 0.72), [left + (right - left) * share for share in found]
        low = min(places)
        out.append(text(left, y - 11, arm))
        out.append(f'<rect class="soft" x="{left}" y="{y - 5:.1f}" width="{low - left:.1f}" height="10"/>')
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>' for x in places]
    return "\n".join([*out, "</svg>\n"])


SAYS = """Results of two seeds. Scoring checkpoints by their best sub-block gives more right answers than scoring them by the
mean of a segment's keys, and more than one large state without checkpoints that takes two thirds of the bytes. Two seeds do not
separate the large state from scoring by the mean. Selecting two of sixteen checkpoints (top-2) is learned late or not at all:
by no seed with means and by one of two seeds with sub-blocks, both with the layer's own routing and with routing shared with
the first layer. A third of the steps is too few for any top-2 selection. Reading all checkpoints without gates gives few right
answers: the wrong checkpoints outweigh the right one. How much of this matters for text was not measured."""


def page(rows: list[dict[str, Any]]) -> str:
    """The table."""
    seeds = len({row["seed"] for row in rows})
    said = f"""Generated by `python tools/recall.py`; do not edit. The docstring of that file describes the task. Small models
    are trained to recall {PAIRS} pairs in streams of {TOKENS} tokens: two layers, width 64, two heads of 16, a `gated` memory,
    `short_conv=4`, {rows[0]["steps"]:,} steps of {ROWS} rows. There is no window (except in "window of 16 alone"), every token
    is written at once, and segments have {SEALED["segment"]} tokens. Chance is {2 / VOCABULARY:.3f}. There are {seeds} seeds;
    differences below their spread mean nothing."""
    lines = [
        "# Recall of pairs with and without checkpoints\n",
        textwrap.fill(" ".join(said.split()), 128, break_on_hyphens=False),
        *(
            ["", textwrap.fill(" ".join(SAYS.split()), 128, break_on_hyphens=False)]
            if rows[0]["steps"] == STEPS and seeds > 1
            else []
        ),
        "\n![Right answers of each arm](recall.svg)\n",
        "| | right answers, the mean over seeds | each seed | state bytes after a stream |",
        "|---|---|---|---|",
    ]
    for arm in ARMS:
        found = sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["seed"])
        if found:
            right = [row["right"] for row in found]
            each = ", ".join(f"{share:.3f}" for share in right)
            lines.append(f"| {arm} | {sum(right) / len(right):.3f} | {each} | {found[0]['state_bytes']:,} |")
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    """The tool."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--steps", type=int, default=STEPS)
    parse.add_argument("--seeds", default="0,1", help="separated by commas (default 0,1)")
    parse.add_argument("--arms", default="", help="beginnings of names, separated by semicolons (default: all)")
    parse.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs", help="folder of the results")
    args = parse.parse_args(words)
    torch.set_num_threads(1)
    keep_freed_memory()
    path = args.out / "recall.json"
    rows = json.loads(path.read_text("utf-8")) if path.is_file() else []
    rows = [row for row in rows if row["steps"] == args.steps]
    for seed in map(int, args.seeds.split(",")):
        for arm in ARMS:
            wanted = arm.startswith(tuple(args.arms.split(";")))
            if wanted and not any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                with patch.object(Router, "scores", by_chance) if "random" in arm else nullcontext():
                    rows.append(train(arm, seed, args.steps))
                write_json(path, rows)
    write_text(args.out / "recall.md", page(rows))
    write_text(args.out / "recall.svg", drawn(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
