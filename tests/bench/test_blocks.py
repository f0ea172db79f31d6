"""The benchmark of blocks on a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.bench import blocks
from siltstone.text import ByteTokenizer
from tests.cli.commands import good, refused

KEYS: dict[str, Any] = dict(
    vocab_size=259, d_model=8, heads=2, kv_heads=1, window=32, sinks=2, depth=2, pattern="mw", cache="blocks", segment=16,
    router="subblock:2", top_k=2, checkpoint_dtype="int8", cache_options=dict(route_every=8), mlp="gelu", mlp_dim=8, tie=True,
)  # fmt: skip


def test_it_measures_any_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "NEAR", 2048)
    monkeypatch.setattr(blocks, "READ", ((2048, 1.5),))
    model = st.LM(st.LMConfig.from_dict(KEYS)).eval()
    run = st.save(model, ByteTokenizer(), tmp_path / "run")
    found = json.loads(good("bench", "--quick", "--threads", "1", "--blocks", run).stdout.splitlines()[-1])
    token, reading, size = found["rows"]
    assert token["claim"].endswith("2,048 against 1,024") and token["ratio"] > 0
    assert reading["ratio"] > 0 and reading["at_most"] and reading["target"] == 1.5
    with torch.no_grad():
        _, state = model(torch.zeros(1, 2048, dtype=torch.long))
    kept = state.layers[0].kept.nbytes  # type: ignore[attr-defined]
    assert size["ours"] == state.nbytes - kept and size["peer"] == 2048 * 4 * (4 + 4) + 2048 * 4 * (4 + 4)


def test_a_model_without_blocks(tmp_path: Path) -> None:
    run = st.save(st.LM(st.presets.nano(259)), ByteTokenizer(), tmp_path / "run")
    refused("has no layer with cache='blocks'", "bench", "--blocks", run)
