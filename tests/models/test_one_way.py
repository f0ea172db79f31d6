"""One-token calls are steps: few calls of torch, whatever the kind of bank, and the hints change no result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import siltstone as st
from siltstone.models import step as host
from siltstone.models.stream_state import LMState
from siltstone.schedule.step import Hints

KINDS: dict[str, dict[str, Any]] = {
    "sparse": dict(cache="sparse", gate="softmax", top_k=2),
    "dense": dict(cache="gated", gate="softmax"),
    "logarithmic": dict(cache="gated", segments="logarithmic"),
}
MOST = {"sparse": 217, "dense": 206, "logarithmic": 196}
IDS = torch.randint(23, (1, 40), generator=torch.Generator().manual_seed(5))


class Calls(TorchDispatchMode):
    """Counts the operations of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def model(depth: int, keys: dict[str, Any]) -> st.LM:
    torch.manual_seed(0)
    base: dict[str, Any] = dict(vocab_size=23, d_model=16, heads=2, window=5, segment=4, router_dim=4)
    return st.LM(st.LMConfig.from_dict(base | {"depth": depth} | keys)).eval()


def calls(lm: st.LM) -> int:
    state = lm(IDS[:, :30])[1]
    lm(IDS[:, 30:31], state)
    with Calls() as found:
        lm(IDS[:, 30:31], state)
    return found.number


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_layer_makes_few_calls_a_token(kind: str) -> None:
    assert calls(model(3, KINDS[kind])) - calls(model(2, KINDS[kind])) <= MOST[kind]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_the_host_says_changes_nothing(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with hints are those of a host that says no more than it must."""
    lm = model(2, KINDS[kind]).double()
    start = LMState.cat([lm(IDS[:, :17])[1] for _ in range(rows)])
    told, state = [], start
    for t in range(17, 26):
        out, state = lm.step(IDS[0, t].expand(rows), state)
        told.append(out)
    prepare = host.prepare

    def silent(*given: Any) -> host.Prepared:
        ready = prepare(*given)
        ready.at, some = None, ready.schedules.items()
        ready.schedules = {timing: (geo, counts, Hints(hints.width)) for timing, (geo, counts, hints) in some}
        return ready

    monkeypatch.setattr("siltstone.models.lm.prepare", silent)
    state = start
    for t, want in zip(range(17, 26), told, strict=True):
        out, state = lm.step(IDS[0, t].expand(rows), state)
        assert float((out - want).abs().max()) <= 1e-12
