"""Sessions in a batch do what they do alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from tests.inference.conftest import small_model
from tests.torture.factor import FACTOR

from .scripts import Found, alone, compare, script, together

SESSIONS = 200
TINY: dict[str, Any] = {"d_model": 16, "segment": 6, "window": 5, "router_dim": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "gated": dict(memory="gated", cache="gated"),
    "logarithmic": dict(segments="logarithmic", memory="gated_delta"),
    "budget": dict(cache="sparse", top_k=2, max_checkpoints=3, evict="use"),
    "sparse": dict(cache="sparse", top_k=2, sinks=2, short_conv=3),
    "content": dict(segments="content", cache="gated"),
    "hybrid": dict(pattern="ma"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_scripts_in_a_batch_see_what_they_see_alone(name: str, tok: st.ByteTokenizer, tmp_path: Path) -> None:
    model, draw = st.freeze(small_model(**(TINY | CONFIGS[name])).double()), random.Random(name)
    count = int(FACTOR * SESSIONS / len(CONFIGS)) + 1
    scripts = [script(draw) for _ in range(count)]
    wanted = [alone(st.Session(model, tok), ops, tmp_path / "a.silt") for ops in scripts]
    batch, found, running, begun = st.Batch(model, tok, slots=24, slice=24), [], [], 0
    while begun < count or running:
        if begun < count and len(running) < 12 and draw.random() < 0.5:
            found.append(Found())
            running.append(together(batch, batch.join(), scripts[begun], tmp_path / f"{begun % 12}.silt", found[-1]))
            begun += 1
        elif running:
            one = draw.choice(running)
            if next(one, "ended") == "ended":
                running.remove(one)
        if draw.random() < 0.5:
            batch.turn()
    assert len(batch) == 0 and not batch.turn()
    for mine, want in zip(found, wanted, strict=True):
        compare(mine, want)
