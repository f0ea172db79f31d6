"""What the other rows of a step may change: nothing, but for rounding where they need room for more entries."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.models.stream_state import LMState

BASE: dict[str, Any] = dict(vocab_size=50, d_model=16, depth=2, heads=2, window=6, segment=4, router_dim=8)
KINDS: dict[str, dict[str, Any]] = {
    "none": dict(cache="none", window=9),
    "sparse": dict(cache="sparse", top_k=2),
    "gated": dict(cache="gated", gate="softmax"),
    "residual": dict(cache="residual"),
    "logarithmic": dict(cache="gated", segments="logarithmic"),
    "budget": dict(cache="sparse", top_k=2, max_checkpoints=3),
    "hybrid": dict(pattern="ma"),
}
FIXED = ("none",)  # nothing in these states grows
IDS = torch.randint(50, (2, 330), generator=torch.Generator().manual_seed(3))
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def model(kind: str, dtype: torch.dtype) -> st.LM:
    torch.manual_seed(0)
    return st.LM(st.LMConfig.from_dict(BASE | KINDS[kind])).to(dtype).eval()


@torch.no_grad()
def beside(lm: st.LM, text: Tensor, age: int) -> Tensor:
    """The logits of a row of 20 tokens in ten steps, beside one that has read so many of a text."""
    state = LMState.cat([lm(IDS[:1, :20])[1], lm(text[None, :age])[1]])
    out = []
    for t in range(10):
        logits, state = lm.step(torch.stack([IDS[0, 20 + t], text[age + t]]), state)
        out.append(logits[0])
    return torch.stack(out)


@every_kind
def test_no_bit_depends_on_what_the_others_hold(kind: str) -> None:
    lm = model(kind, torch.float32)
    assert torch.equal(beside(lm, IDS[0], 20), beside(lm, IDS[1], 20))


@every_kind
def test_room_for_more_changes_the_rounding_at_most(kind: str) -> None:
    near, far = (beside(model(kind, torch.float64), IDS[1], age) for age in (20, 300))
    assert float((near - far).abs().max()) <= 1e-10


@pytest.mark.parametrize("kind", FIXED)
def test_states_that_do_not_grow_know_no_other_room(kind: str) -> None:
    lm = model(kind, torch.float32)
    assert torch.equal(beside(lm, IDS[1], 20), beside(lm, IDS[1], 300))
