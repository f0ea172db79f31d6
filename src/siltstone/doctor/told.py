"""Told or not told: a name is said once, and asked for later among 20; and the same text without it (see `eval.tasks.told`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..eval.run import evaluate, make
from ..models.streaming import StreamingModel
from ..text import Tokenizer

DISTANCES = (0, 100, 1000, 10000)  # tokens from the fact to the question
ITEMS = 4  # texts of each distance
CANDIDATES = 20


def probe(
    model: StreamingModel,
    tokenizer: Tokenizer,
    distances: Sequence[int] = DISTANCES,
    items: int = ITEMS,
    tick: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """For each distance: in how many of `items` texts the told name ranks first, told and not told."""
    found = []
    for distance in distances:
        rows = evaluate(model, tokenizer, [make("told_20")], [distance], seeds=1, items=items)["rows"]
        right = {row["score"]: round(row["mean"] * row["count"]) for row in rows}
        told, not_told = right["first, told"], right["first, not told"]
        found.append({"distance": distance, "told": told, "not_told": not_told, "texts": items, "candidates": CANDIDATES})
        tick()
    return found
