"""The oracle's compressors on blocks small enough to reckon by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .compressors import pool


def vec(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pooled(name: str, w: dict[str, Tensor], *xs: Tensor, recent: tuple[Tensor, ...] = (), **options: Any) -> list[float]:
    return pool(dict(d_model=2, compress=name, compress_options=options), w, list(xs), list(recent)).tolist()


ZERO, EYE = torch.zeros(2, 2).double(), torch.eye(2).double()


def test_identity_and_mean() -> None:
    assert pooled("identity", {}, vec(3, 4)) == [3, 4]
    assert pooled("mean", {}, vec(3, 4), vec(1, 0)) == [2, 2]


def test_conv_weighs_places_and_channels() -> None:
    taps = torch.stack([vec(1, 0), vec(-1, 2)])
    assert pooled("conv", {"compress.taps": taps}, vec(3, 4), vec(1, 5)) == [2, 10]


def test_gates_add_up_to_one_in_every_channel() -> None:
    w = {"compress.gate.weight": ZERO, "compress.place": ZERO}
    assert pooled("gated", w, vec(3, 4), vec(1, 0)) == [2, 2]
    w["compress.place"] = torch.stack([vec(60, 0), vec(0, 60)])
    assert torch.allclose(vec(*pooled("gated", w, vec(3, 4), vec(1, 0))), vec(3, 0))
    w = {"compress.gate.weight": EYE * math.log(3), "compress.place": ZERO}
    assert torch.allclose(vec(*pooled("gated", w, vec(1, 0), vec(0, 0))), vec(0.75, 0))  # 3 : 1 in the first channel


def test_attention_reads_keys_with_learned_queries() -> None:
    w = {
        "compress.seed": torch.tensor([[0.0], [100.0]]).double(),
        "compress.place": ZERO,
        "compress.project.weight": torch.cat([EYE, EYE]),
        "compress.out.weight": EYE,
    }
    got = pooled("attention", w, vec(3, 4), vec(1, 0), queries=2)
    assert torch.allclose(vec(*got), vec(2, 4))  # the first query sees all alike, the second the larger key
    w["compress.place"] = torch.stack([vec(0, 60), vec(0, 0)])
    assert torch.allclose(vec(*pooled("attention", w, vec(3, 4), vec(1, 0), queries=2)), vec(1, 4))


def test_attention_with_context_asks_what_the_window_says() -> None:
    """One query: nothing of its own, and ten times the mean of the window."""
    w = {
        "compress.seed": torch.zeros(1, 2).double(),
        "compress.place": torch.zeros(1, 2).double(),
        "compress.project.weight": torch.cat([EYE, EYE]),
        "compress.out.weight": EYE,
        "compress.context.weight": 10 * EYE,
    }
    block, window = (vec(20, 0), vec(0, 20)), (vec(3, 0), vec(1, 0))
    assert torch.allclose(vec(*pooled("attention", w, *block, recent=window, queries=1, context=True)), vec(20, 0))
    assert torch.allclose(vec(*pooled("attention", w, *block, recent=window, queries=1)), vec(10, 10))
