"""A rule alone in its layer, and what it answers before the norm: what other implementations compute too."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

import siltstone as st
from siltstone.layers import mixer

WIDTH, HEADS = 16, 2
FLOAT64, FLOAT32 = 1e-10, 1e-5  # of max(1, max|value|); where the other side computes in float32, the second


def package(name: str) -> Any:
    """A module of an optional package, its warnings its own; the tests of a file that lacks it are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0], reason="an optional package: make opinions")
        return importlib.import_module(name)


def layer(memory: str, options: dict[str, Any] | None = None, **keys: Any) -> Any:
    """A layer in float64 with generic weights and without an output projection: what it returns is what it read, [B, T, H*V]."""
    torch.manual_seed(0)
    plain: dict[str, Any] = {"heads": HEADS, "window": 0, "write_delay": 0, "cache": "none"}
    made = st.MemoryCaching(WIDTH, memory=memory, memory_options=options or {}, **(plain | keys)).double()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw, dtype=p.dtype))
        nn.init.eye_(made.mix.out.weight)
    return made


def reads(made: Any, x: Tensor, cuts: Sequence[int] = ()) -> Tensor:
    """What the layer reads for x [B, T, D], in calls cut before the given tokens, before its norm."""
    edges, parts, state = [0, *cuts, x.shape[1]], [], None
    with patch.object(mixer, "rms", lambda read, weight, eps: read):
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            y, state = made(x[:, a:b], state)
            parts.append(y)
    return torch.cat(parts, 1)


def stream(tokens: int, rows: int = 2) -> Tensor:
    """x [B, T, D]."""
    return torch.randn(rows, tokens, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def agree(made: Any, other: Callable[[Tensor], Tensor], x: Tensor, tolerance: float, cuts: Sequence[int] = ()) -> None:
    """Reads are the same, in one call and in several, and so are the gradients of x and of the memory's weights."""
    probe = torch.randn(other(x).shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = {name: p for name, p in made.mix.memory.named_parameters() if p.requires_grad}
    found = []
    for run in (lambda z: reads(made, z), other):
        z = x.clone().requires_grad_()
        y = run(z)
        grads = torch.autograd.grad((y * probe).sum(), [z, *weights.values()], materialize_grads=True)
        found.append([y.detach(), *grads])
    for what, ours, theirs in zip(["reads", "gradient of x", *weights], *found, strict=True):
        close(ours, theirs, tolerance, what)
    with torch.no_grad():
        close(reads(made, x, cuts), found[1][0], tolerance, "reads in several calls")


def close(ours: Tensor, theirs: Tensor, tolerance: float, what: str = "reads") -> None:
    """max|difference| <= tolerance * max(1, max|value|)."""
    assert ours.shape == theirs.shape and theirs.isfinite().all()
    worst, size = float((ours - theirs).detach().abs().max()), max(1.0, float(theirs.detach().abs().max()))
    assert worst <= tolerance * size, f"{what}: differs by {worst:.3g}, allowed {tolerance * size:.3g}"
