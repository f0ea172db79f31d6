"""A record as a demonstration would leave it, made of plausible numbers."""

from __future__ import annotations

import math

from siltstone.demo.record import Record


def record(chunks: int = 244, chunk: int = 1024) -> Record:
    """`chunks` chunks read, the transformer a quarter of them."""
    made = Record()
    made.facts = {
        "model": "a 2,100,000-parameter model: window 64, segment 128, gated memory, sparse cache over logarithmic segments",
        "text": "42 held-out speeches to Congress",
        "machine": "2 threads, float32, torch 2.13.0",
        "window": 64,
        "chunk": chunk,
        "sample": 64,
        "transformer_parameters": 2_000_000,
        "cache_bytes_a_token": 5120,
    }
    for i in range(1, chunks + 1):
        wave = 0.15 * math.sin(i * 12.9898) + 0.05 * math.sin(i * 4.1414)
        at = i * chunk
        made.reader.add(at, 0.12 * (1 + 0.3 * wave), 900_000 + 160_000 * int(at / 128).bit_count(), 1.9 + 0.5 / i + wave)
        if i <= chunks // 4:
            made.transformer.add(at, 0.1 + at * 2e-5 * (1 + 0.2 * wave), at * 5120)
        made.sampled.append(at)
        made.samples.append({"session": 1.9 + wave, "64": 2.02 + 1.1 * wave, "256": 1.95 + 0.9 * wave})
    made.facts |= {"sample": 128, "growth": "O(log t): logarithmic segments", "parameters": 2_100_000}
    made.bits = 1.93
    text = "the army of the United States has been <in> the course of the year & will be. " * 4
    made.forks = [
        {"prompt": "On war, I say to you that ", "text": text, "ms": 3.1, "moved": False},
        {"prompt": "On the Treasury, I say to you that ", "text": text, "ms": 3.2, "moved": False},
    ]
    here = {"process": 4711, "position": chunks * chunk + 256, "calls": 129, "logits": "ab" * 32, "state": "cd" * 32}
    there = here | {"process": 4712, "restored": chunks * chunk, "recomputed": 0, "load_ms": 41.0}
    made.recall = recall()
    made.resume = {"equal": True, "here": here, "there": there, "file_bytes": 1_900_000, "save_ms": 12.0, "tokens": 256}
    return made


def recall() -> dict:
    """Two facts, one of them answered."""
    asked = [
        {
            "sentence": f"{who} painted the front door <green>.", "question": f"\n{who} painted the front door",
            "answer": "<green>",
            "distance": 9000 - 5000 * i,
            "said": {"told": " <green>" if i else " to", "once": " to", "not told": "", "window": " & so"},
            "right": {"told": bool(i), "once": False, "not told": False, "window": False},
            "nats": {"told": 1.5, "once": 2.5, "not told": 15.0, "window": 14.0},
        }
        for i, who in enumerate(("Ann", "Bo & Co"))
    ]  # fmt: skip
    recorded = {"caption": "One seed.", "columns": ["", "model", "twin"], "rows": [["told, 1,000 tokens later", "0.97", "<0.1"]]}
    return {
        "recorded": recorded,
        "tokens": 16000,
        "bytes": 10_000_000,
        "window": 128,
        "model": "2,378,000 parameters",
        "asked": asked,
    }


def evidence() -> dict:
    """The training evidence of an invented checkpoint."""
    steps = list(range(10, 3001, 10))
    return {
        "command": "siltstone train texts/ --preset tiny --steps 3000 --out run",
        "figures": {
            "seed": 0,
            "bits per byte (32 to 16384)": 2.037,
            "validation, bits per byte": 1.934,
            "window-only twin": 1.981,
        },
        "loss": {
            "step": steps,
            "train": [2 + 3 * math.exp(-s / 300) + 0.05 * math.sin(s) for s in steps],
            "valid": [[s, 2.05 + 3 * math.exp(-s / 300)] for s in range(250, 3001, 250)],
            "caption": "One seed.",
        },
        "by_position": {
            "series": {"Siltstone": _buckets(0.04), "window-only twin": _buckets(0.01)},
            "window": 64,
            "train_length": 512,
            "caption": "The same documents in every bucket.",
        },
    }


def _buckets(slope: float) -> dict:
    edges = [0, *(2**k for k in range(6, 16))]
    pairs = zip(edges, edges[1:], strict=False)
    return {"buckets": [{"from": a, "to": b, "bits_per_byte": 2.4 - slope * i} for i, (a, b) in enumerate(pairs)]}
