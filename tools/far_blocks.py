"""What blocks hold and choose far into a text: a decoder reads a text with `spill`, and is measured on the way.

    python tools/far_blocks.py RUN TEXT [--tokens 131072] [--spill DIR] [--out FILE.json]

RUN was imported with `siltstone import --blocks`. At 8,192 tokens and each doubling: anonymous memory of the process above what
it had before the text, pages of the pool among it, all resident memory (/proc/self/smaps_rollup, so Linux alone), and a float32
key-value cache of as many tokens. Where blocks are chosen in two stages, also the share of the blocks that one stage would choose
which are chosen, and their share of its mass, over all layers, heads and groups of the last call.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import siltstone as st
from siltstone.errors import InputError, SiltstoneError
from siltstone.inference.receipt import kv_cache_bytes
from siltstone.inference.session import Session
from siltstone.io import write_json
from siltstone.layers import blocks_call, blocks_choice
from siltstone.layers.blocks_kept import routing
from siltstone.state import Spill
from siltstone.text import read_blocks

CALL = 512  # tokens of a call, as sessions read
FIRST = 8192


def held() -> dict[str, int]:
    """Bytes of anonymous and of all resident memory of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    found = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines[1:]}
    return {"anonymous": found["Anonymous"], "resident": found["Rss"]}


@contextmanager
def compared(shares: list[tuple[float, float]]) -> Iterator[None]:
    """Within it, each choice in two stages adds its shares of the exactly chosen blocks, and of their mass."""
    choose = blocks_choice.choose

    def both(cfg: Any, law: Any, query: Any, means: Any, groups: Any, stages: Any = None, asking: Any = None) -> Any:
        found = choose(cfg, law, query, means, groups, stages, asking)
        if stages is not None and stages.all() and (asking is None or not asking.here.any()):
            exact = choose(cfg, law, query, means, groups)
            there = blocks_choice._there(law, groups)
            mass = blocks_choice._summed(cfg, law, query, routing(means, False), groups, there).transpose(1, 2)
            same = (found[..., None] == exact[..., None, :]).any(-2).double().mean()
            of = [float(mass.gather(-1, places).sum()) for places in (found, exact)]
            shares.append((float(same), of[0] / of[1]))
        return found

    with patch.object(blocks_call, "choose", both):
        yield


@torch.no_grad()
def measured(session: Session, spill: Spill, ids: list[int]) -> list[dict[str, float]]:
    """What is measured while a session with `spill` reads the ids."""
    session.append(ids[:CALL])
    before, rows, place = held(), [], FIRST
    for first in range(CALL, len(ids), CALL):
        shares: list[tuple[float, float]] = []
        end = first + CALL
        if end < place and end < len(ids):
            session.append(ids[first:end])
            continue
        now, place = held(), 2 * place  # before the comparison, which takes memory of its own
        with compared(shares):
            session.append(ids[first:end])
        row = {"tokens": session.position, "pool": spill.resident, "resident": now["resident"],
               "anonymous": now["anonymous"] - before["anonymous"],
               "cache": kv_cache_bytes(session.model.cfg, session.position, 4)}  # fmt: skip
        if shares:
            blocks, mass = (sum(x) / len(shares) for x in zip(*shares, strict=True))
            row |= {"blocks": round(blocks, 4), "mass": round(mass, 4)}
        rows.append(row)
        print(row, flush=True)
    return rows


def table(rows: list[dict[str, float]]) -> str:
    """Markdown: a line for each place where blocks are chosen in two stages."""
    heads = ["tokens", "anonymous", "of it pages", "all resident", "float32 cache", "anonymous, of the cache"]
    heads += ["same blocks as one stage", "of its mass"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in (row for row in rows if "blocks" in row):
        sizes = [f"{row[key] / 1e6:,.0f} MB" for key in ("anonymous", "pool", "resident", "cache")]
        shares = [f"{row['anonymous'] / row['cache']:.3f}", f"{row['blocks']:.0%}", f"{row['mass']:.0%}"]
        lines.append(f"| {row['tokens']:,} | {' | '.join([*sizes, *shares])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--spill", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    model, tokenizer = st.load(given.run)[:2]
    ids = tokenizer.encode("".join(read_blocks(given.text)))[: given.tokens]
    if len(ids) < given.tokens:
        raise InputError(f"{given.text} has {len(ids):,} tokens, fewer than --tokens {given.tokens:,}; give a longer text")
    with tempfile.TemporaryDirectory() as folder:
        spill = Spill(given.spill or folder)
        rows = measured(Session(model.eval().requires_grad_(False), tokenizer, spill=spill), spill, ids)
    print(table(rows))
    if given.out is not None:
        write_json(given.out, {"text": given.text.name, "rows": rows})


if __name__ == "__main__":
    try:
        main()
    except SiltstoneError as error:
        sys.exit(f"far_blocks: error: {error}")
