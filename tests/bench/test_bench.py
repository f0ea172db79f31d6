"""The benchmark's arithmetic, and its rows at toy sizes."""

from __future__ import annotations

import torch

from siltstone.bench import layers, models
from siltstone.bench.run import cells, line
from siltstone.bench.timing import Row, interleaved


def test_rounds_are_interleaved_and_warm_ones_not_counted() -> None:
    order: list[str] = []
    ms = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm=1)
    assert order == ["a", "b"] * 4
    assert set(ms) == {"a", "b"} and all(x >= 0 for x in ms.values())


def test_targets_are_floors_or_ceilings() -> None:
    def row(ratio: float | None, at_most: bool = False) -> Row:
        return Row("x", 1, "fp32", 1.0, 2.0, ratio, 2.0, at_most=at_most)

    assert row(2.5).reached and not row(1.5).reached
    assert row(1.5, at_most=True).reached and not row(2.5, at_most=True).reached
    assert row(None).reached is None
    assert "missed" in line(row(1.5)) and cells(row(2.5))[-1] == "reached"


def test_layer_rows_at_toy_sizes() -> None:
    rows = [*layers.against_package(1, 2, 32), *layers.against_attention(1, 2, torch.float32, 300, 300)]
    assert any("SDPA" in r.claim and r.ratio is not None and r.ratio > 0 for r in rows)


def test_a_filled_state_stands_where_it_says() -> None:
    ours, peer = models.pair(torch.float32, cache="sparse", depth=1, d_model=32, heads=2)
    for model in (ours, peer):
        state = models.at_position(model, 5000)
        with torch.no_grad():
            logits, after = model(torch.zeros(1, 1, dtype=torch.long), state)
        assert after.position[0] == 5001 and torch.isfinite(logits).all()
    assert models.at_position(ours, 5000).checkpoints()[0][0] == (5000 - 128 - 1) // 256
