"""Does a token find the checkpoint that it needs? Small models learn to recall pairs, with each way of routing and without.

    python tools/routing.py [--steps 900] [--seeds 0] [--arms gated,sparse] [--out docs]

Multi-query associative recall (MQAR, arXiv 2312.04927): 8 to 64 keys with a value each, then every key once more in any order
among fillers; the model must answer with its value. 256 tokens, a vocabulary of 512, a window of 16 and segments of 16 tokens: a
pair was sealed into one of up to 15 checkpoints long before it is asked for. Reported is the share of right answers.

Beside the ways of routing stand: scores at random, the window alone, the memory without checkpoints, and a memory without
checkpoints whose state is as large as 16 of the others. Writes routing.json after every run and routing.md, a table, at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

import siltstone as st
from siltstone.cache.base import Router
from siltstone.io.atomic import write_json, write_text
from siltstone.machine import keep_freed_memory

TOKENS, VOCABULARY, ROWS, PAIRS, WIDTH, SEGMENT = 256, 512, 32, (8, 16, 32, 64), 64, 16
ALONE: dict[str, Any] = dict(cache="none", segments="constant")
ARMS: dict[str, dict[str, Any]] = {
    "window alone": dict(pattern="w"),
    "no checkpoints": ALONE,
    "no checkpoints, state of equal bytes": ALONE | dict(head_dim=4 * WIDTH // 2),
    "residual (all, ungated)": dict(cache="residual"),
    "gated, router mean": dict(cache="gated"),
    "gated, router subblock:4": dict(cache="gated", router="subblock:4"),
    "gated, subblock:4, shared": dict(cache="gated", router="subblock:4", routing="shared"),
    "sparse top-4, at random": dict(cache="sparse", top_k=4),
    "sparse top-4, router mean": dict(cache="sparse", top_k=4),
    "sparse top-4, router subblock:4": dict(cache="sparse", top_k=4, router="subblock:4"),
    "sparse top-4, subblock:4, shared": dict(cache="sparse", top_k=4, router="subblock:4", routing="shared"),
}


def batch(rows: int, pairs: int, by: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """ids [rows, TOKENS], and for each pair the place where its key is asked for and the value [rows, pairs]."""
    half = VOCABULARY // 2
    keys = torch.rand(rows, half - 1, generator=by).topk(pairs, -1).indices + 1
    values = torch.randint(half, VOCABULARY, (rows, pairs), generator=by)
    places = torch.rand(rows, TOKENS - 2 * pairs, generator=by).topk(pairs, -1).indices + 2 * pairs
    ids = torch.zeros(rows, TOKENS, dtype=torch.long)
    ids[:, : 2 * pairs] = torch.stack([keys, values], -1).flatten(1)
    return ids.scatter_(1, places, keys), places, values


def answers(model: st.LM, ids: Tensor, places: Tensor) -> Tensor:
    """Logits at the places that ask [rows, pairs, VOCABULARY]."""
    hidden, _ = model.features(ids)
    return model.head(hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1])))


def train(arm: str, seed: int, steps: int) -> dict[str, Any]:
    """One model, and its share of right answers for each number of pairs."""
    torch.manual_seed(seed)
    keys: dict[str, Any] = dict(vocab_size=VOCABULARY, d_model=WIDTH, heads=2, depth=2, pattern="m", window=16, memory="linear")
    keys |= dict(segment=SEGMENT, segments="constant", start="restart", gate="sigmoid", mlp_dim=2 * WIDTH) | ARMS[arm]
    model = st.LM(st.LMConfig.from_dict(keys))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min(1.0, (i + 1) / 50) * (0.05 + 0.475 * (1 + math.cos(math.pi * i / steps)))
    )
    by, began = torch.Generator().manual_seed(1 + seed), time.perf_counter()
    for _ in track(range(steps), description=f"{arm}, seed {seed}", transient=True):
        ids, places, values = batch(ROWS, PAIRS[int(torch.randint(len(PAIRS), (), generator=by))], by)
        loss = F.cross_entropy(answers(model, ids, places).flatten(0, 1), values.flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rate.step()
    right = {}
    with torch.no_grad():
        for pairs in PAIRS:
            ids, places, values = batch(256, pairs, torch.Generator().manual_seed(5))
            right[pairs] = float((answers(model, ids, places).argmax(-1) == values).float().mean())
    return {"arm": arm, "seed": seed, "steps": steps, "right": right, "seconds": time.perf_counter() - began}


def by_chance(router: Router, u: Tensor, summary: Tensor, empty: Tensor | None) -> Tensor:
    """Scores [R, Q, N] that know nothing."""
    return torch.rand(*u.shape[:2], summary.shape[1])


def page(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [
        "# Does a token find its checkpoint?",
        "",
        "Made by `python tools/routing.py`, which says how; do not edit. Two layers, a linear memory, width 64, sigmoid gates,",
        f"{rows[0]['steps']:,} steps of {ROWS} rows. Share of right answers with 8 to 64 pairs, the mean over seeds; in",
        "brackets the lowest and highest with 64.",
        "",
        "| | seeds | " + " | ".join(f"{p} pairs" for p in PAIRS) + " |",
        "|---|---|" + "---|" * len(PAIRS),
    ]
    for arm in ARMS:
        found = [{int(p): share for p, share in row["right"].items()} for row in rows if row["arm"] == arm]
        if found:
            cells = [f"{sum(f[p] for f in found) / len(found):.2f}" for p in PAIRS]
            last = [f[PAIRS[-1]] for f in found]
            lines.append(f"| {arm} | {len(found)} | {' | '.join(cells)} ({min(last):.2f} to {max(last):.2f}) |")
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    """The tool."""
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--steps", type=int, default=900)
    parse.add_argument("--seeds", default="0,1", help="separated by commas (default 0,1)")
    parse.add_argument("--arms", default="", help="beginnings of names, separated by commas (default: all)")
    parse.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs", help="folder of the results")
    args = parse.parse_args(words)
    keep_freed_memory()
    path = args.out / "routing.json"
    rows = json.loads(path.read_text("utf-8")) if path.is_file() else []
    rows = [row for row in rows if row["steps"] == args.steps]
    for seed in map(int, args.seeds.split(",")):
        for arm in ARMS:
            wanted = arm.startswith(tuple(args.arms.split(",")))
            if wanted and not any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                with patch.object(Router, "scores", by_chance) if "random" in arm else nullcontext():
                    rows.append(train(arm, seed, args.steps))
                write_json(path, rows)
    write_text(args.out / "routing.md", page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
