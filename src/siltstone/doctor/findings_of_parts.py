"""Findings on which parts answered, and on a fact that was told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .answered import SILENT
from .findings import Finding

_SILENT = {
    "sinks": "give the layers no sinks: they take keys and say nothing",
    "blocks": "the text beyond the window has no effect: look at top_k and router (a sub-block of 2 tokens finds most), or use "
    "pattern=w, which costs less",
    "memory": "the text beyond the window has no effect: train with a shorter window, so that the memory is needed, or use "
    "pattern=w, which costs less",
    "bank": "checkpoints have no effect: cache=none costs less; look at the gates, or train with texts that need what a memory "
    "has forgotten",
    "pairs": "kept pairs have no effect: another cache costs less",
    "window": "near tokens have no effect: the weights do not fit the configuration, or training failed",
}
_FORGOTTEN = "what was said so far back is not found: shipped and small models recall no names; ask nearer, or use cache=blocks"
_GUESSED = "the name ranks first without having been told: another seed or more texts are needed before this says anything"


def part_findings(answered: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Which shares the parts have, and an alarm for a part that never speaks."""
    for parts in dict.fromkeys(tuple(layer["parts"]) for layer in answered):
        mine = [layer for layer in answered if tuple(layer["parts"]) == parts]
        said = []
        for key, what in (("mass", "attention mass times value norm"), ("output", "output norm")):
            shares = [layer[key] for layer in mine if layer[key] is not None]
            if shares:
                means = (sum(each) / len(shares) for each in zip(*shares, strict=True))
                said.append(f"{what}: " + ", ".join(f"{part} {mean:.1%}" for part, mean in zip(parts, means, strict=True)))
        count = f"{len(mine)} layer{'s' * (len(mine) != 1)}"
        kind = "blocks" if mine[0]["blocks"] else "a memory"
        yield Finding("ok", "parts", f"{count} with {kind}: {'; '.join(said)}")
        if mine[0]["blocks"] and "blocks" not in parts:
            yield Finding("warning", "parts", "no token had a block to attend to", "give a longer text, or more --tokens")
        for i, part in enumerate(parts):
            most = max(layer["most"][i] for layer in mine)
            if most < SILENT:
                text = (
                    f"{part} never speak{'s' * (part in ('window', 'memory', 'bank'))}: at most {most:.2%} in any head of {count}"
                )
                yield Finding("warning", "parts", text, _SILENT[part])


def told_findings(told: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """Whether a told name is found at each distance, and only if it was told."""
    for row in told:
        text = f"at {row['distance']:,} tokens a told name ranks first of {row['candidates']} in {row['told']} of {row['texts']} "
        text += f"texts, and in {row['not_told']} without the fact"
        if row["not_told"] > row["texts"] // 4:
            yield Finding("warning", "told", text, _GUESSED)
        elif row["told"] <= row["texts"] // 2:
            yield Finding("warning", "told", text, _FORGOTTEN)
        else:
            yield Finding("ok", "told", text)
