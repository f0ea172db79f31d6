"""Arms: every one is a model that trains, with the parameters of the base; what it costs is counted as it says."""

from __future__ import annotations

import pytest
import torch

import siltstone as st
from siltstone.errors import ConfigError
from siltstone.eval.arms import Arm, arms, build, configured, matched
from siltstone.eval.costs import costs, parameters, state_bytes

BASE = st.LMConfig.from_dict(
    dict(vocab_size=64, d_model=32, heads=2, depth=2, mlp_dim=160, tie=False, window=8, segment=16, segments="constant")
)
ARMS = {arm.name: arm for arm in arms(BASE, 96)}


@pytest.mark.parametrize("name", ARMS)
def test_parameters_are_matched_and_it_trains(name: str) -> None:
    cfg = configured(BASE, ARMS[name], 96)
    per_width = parameters(cfg.replace(mlp_dim=2)) - parameters(cfg.replace(mlp_dim=1))
    assert abs(parameters(cfg) - parameters(BASE)) <= (per_width + 1) // 2
    model = build(cfg, ARMS[name], 1)
    logits, _ = model(torch.randint(0, 64, (2, 96), generator=torch.Generator().manual_seed(0)))
    logits.square().mean().backward()
    assert logits.isfinite().all() and model.embed.weight.grad is not None


def test_what_arms_cost() -> None:
    found = {name: costs(configured(BASE, ARMS[name], 96), 96) for name in ARMS}
    gated, one, full = (found[name]["state_bytes"] for name in ("gated", "one state of equal bytes", "transformer"))
    assert abs(one / gated - 1) < 0.05 and found["window only"]["state_bytes"] < found["plain recurrence"]["state_bytes"] < gated
    assert full >= 96 * 2 * 2 * 32 * 4  # keys and values of 32 channels, two layers, float32
    assert found["sparse"]["bytes_read"] < found["gated"]["bytes_read"]
    assert found["sparse"]["state_bytes"] > 0.9 * gated
    bounded = state_bytes(configured(BASE, ARMS["transformer"], 96), 192)
    longer = state_bytes(configured(BASE, next(arm for arm in arms(BASE, 192) if arm.name == "transformer"), 192), 192)
    assert abs(bounded / full - 1) < 0.01  # it keeps as many tokens as it was trained on, and no more
    assert longer > 1.5 * full and costs(BASE, 96)["flops"] == 2 * (costs(BASE, 96)["bytes_read"] // 4)


def test_random_routing_is_its_own() -> None:
    cfg, ids = configured(BASE, ARMS["sparse"], 96), torch.arange(96)[None] % 64
    learned, chance = build(cfg, ARMS["sparse"], 0), build(cfg, ARMS["sparse, random routing"], 0)
    again = build(cfg, ARMS["sparse, random routing"], 0)
    assert all(torch.equal(x, y) for x, y in zip(learned.parameters(), chance.parameters(), strict=True))
    with torch.no_grad():
        a, b, c = (model(ids)[0] for model in (learned, chance, again))
    assert not torch.equal(a, b) and torch.equal(b, c)


def test_what_cannot_be_matched() -> None:
    with pytest.raises(ConfigError, match="mlp_dim=1 gives .* parameters, more than 100"):
        matched(BASE, 100)
    assert build(BASE, Arm("x"), 3).parameters_count == parameters(BASE)
