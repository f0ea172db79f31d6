"""Puts a trained run into the package, with its evidence: figures, loss curves, bits per byte by position.

    python tools/ship_checkpoint.py RUN TWIN --train DIR --test DIR --demo DIR --command "siltstone train ..."

RUN is the memory model's run folder and TWIN its window-only twin's; `--test` holds whole documents that neither model has
read, `--demo` the speeches reserved for the demonstration. Weights are stored as bfloat16. Writes src/siltstone/assets/demo.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

import siltstone as st
from siltstone.eval import by_position

ASSETS = Path(__file__).resolve().parent.parent / "src" / "siltstone" / "assets" / "demo"
REACH = 32


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def loss(run: Path, width: int = 25) -> dict[str, Any]:
    """Training bits per byte, averaged over `width` consecutive steps, and the validations."""
    found = lines(run)
    train = [x for x in found if "loss" in x]
    groups = [train[i : i + width] for i in range(0, len(train), width)]
    return {
        "step": [g[-1]["step"] for g in groups],
        "train": [round(sum(x["bits_per_byte"] for x in g) / len(g), 4) for g in groups],
        "valid": [[x["step"], round(x["valid_bits_per_byte"], 4)] for x in found if "valid_bits_per_byte" in x],
    }


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("run", type=Path)
    parse.add_argument("twin", type=Path)
    for name in ("train", "valid", "test", "demo"):
        parse.add_argument(f"--{name}", type=Path, required=True)
    parse.add_argument("--command", required=True)
    parse.add_argument("--twin-command", required=True)
    parse.add_argument("--length", type=int, default=512, help="tokens of a training piece")
    args = parse.parse_args()
    ASSETS.mkdir(parents=True, exist_ok=True)
    model, tok = st.load(args.run)
    st.save(model, tok, ASSETS, dtype=torch.bfloat16)
    model, tok = st.load(ASSETS)
    twin, _ = st.load(args.twin)
    texts = [p.read_text("utf-8") for p in sorted(args.test.glob("*.txt"))]
    length = REACH * args.length
    curves = {
        "memory (shipped)": by_position(model.eval(), tok, texts, length=length),
        "window-only twin": by_position(twin.eval(), tok, texts, length=length),
    }
    ours, other = curves.values()
    window = model.cfg.widest_window
    beyond = [by_position(m, tok, texts, length=length, buckets=[window, length]) for m in (model, twin)]
    gains = [o - m for m, o in zip(beyond[0]["buckets"][0]["each"], beyond[1]["buckets"][0]["each"], strict=True)]
    receipts = [json.loads((run / "receipt.json").read_text("utf-8")) for run in (args.run, args.twin)]
    evidence = {
        "command": args.command,
        "twin_command": args.twin_command,
        "loss": loss(args.run)
        | {"twin": loss(args.twin), "caption": "Training bits per byte (mean of 25 steps) and held-out points."},
        "by_position": {
            "series": curves,
            "window": window,
            "train_length": args.length,
            "caption": f"{len(texts)} held-out novels, the same in every bucket, read to {REACH} times the training piece.",
        },
        "figures": {
            "parameters, memory model": model.parameters_count,
            "parameters, window-only twin": twin.parameters_count,
            "training tokens, each": receipts[0]["tokens"],
            "seeds": 1,
            f"bits per byte beyond the window ({window} to {length}), memory model": round(
                beyond[0]["buckets"][0]["bits_per_byte"], 4
            ),
            f"bits per byte beyond the window ({window} to {length}), twin": round(beyond[1]["buckets"][0]["bits_per_byte"], 4),
            "held-out novels on which the memory model is ahead": f"{sum(g > 0 for g in gains)} of {len(gains)}",
            "validation bits per byte at the end, memory model / twin": " / ".join(
                f"{r['valid_bits_per_byte']:.4f}" for r in receipts
            ),
            "training time on one thread, memory model / twin": " / ".join(f"{r['seconds'] / 60:.0f} min" for r in receipts),
        },
        "data": {
            part: {p.name: sha(p) for p in sorted(getattr(args, part).glob("*.txt"))}
            for part in ("train", "valid", "test", "demo")
        },
    }
    (ASSETS / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n", "utf-8")
    held = {"sotu": sorted(p.name.removeprefix("sotu_") for p in args.demo.glob("*.txt"))}
    (ASSETS / "heldout.json").write_text(json.dumps(held, indent=1) + "\n", "utf-8")
    print(json.dumps(evidence["figures"], indent=1))
    for a, b in zip(ours["buckets"], other["buckets"], strict=True):
        print(a["from"], a["to"], round(a["bits_per_byte"], 4), round(b["bits_per_byte"], 4))


if __name__ == "__main__":
    main()
