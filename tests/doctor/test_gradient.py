"""Gradients are those that plain differentiation gives, and where they vanish or explode it is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.doctor.findings import Finding, all_findings, recent
from siltstone.doctor.gradient import norms, profile
from siltstone.doctor.run import lengths

from .conftest import IDS, make

ROW = IDS[None, :90]


def exact(**keys: Any) -> st.LM:
    return make(**keys).double().requires_grad_(False)


def plain(model: st.LM, t: int) -> torch.Tensor:
    """|d loss_t / d x_{t-1-i}|, the model written out as one call on embedded inputs."""
    x = model.embed(ROW).detach().requires_grad_()
    handle = model.embed.register_forward_hook(lambda *_: x)
    logits = model(ROW)[0]
    handle.remove()
    loss = torch.nn.functional.cross_entropy(logits[:, t - 1], ROW[:, t])
    return torch.autograd.grad(loss, x)[0][0, :t].norm(dim=-1).flip(0)


def gradient_findings(model: st.LM, seed: int = 0) -> list[Finding]:
    ids = IDS[None, : lengths(model.cfg)[2]]
    return [f for f in all_findings(model.cfg, [], [], profile(model, ids, seed)) if f.area == "gradient"]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"segments": "logarithmic", "start": "carry"},
        {"pattern": "mwa", "depth": 3},
        {"memory": "min_lstm", "cache": "residual"},
    ],
    ids=lambda keys: " ".join(map(str, keys.values())) or "plain",
)
def test_norms_are_those_of_plain_differentiation(keys: dict[str, Any]) -> None:
    model = exact(**keys)
    found = norms(model, ROW, [70, 83])
    assert found.shape == (2, 70) and not any(p.requires_grad or p.grad is not None for p in model.parameters())
    for row, t in zip(found, (70, 83), strict=True):
        torch.testing.assert_close(row, plain(model, t)[:70], rtol=1e-9, atol=1e-12)


def test_what_goes_through_the_memory_alone() -> None:
    model = exact(depth=1)
    (alone,) = norms(model, ROW, [80], exact=False)
    assert bool((alone[1:4] == 0).all())  # these are in the window of the token that asks, and in nothing else
    assert bool((alone[4:] > 0).all()) and bool(alone[0] > 0)
    model = exact(depth=1, window=0, write_delay=0)
    torch.testing.assert_close(norms(model, ROW, [80], exact=False), norms(model, ROW, [80]))
    assert bool((norms(exact(pattern="a"), ROW, [80], exact=False)[0, 1:] == 0).all())


def test_windows_reach_as_far_as_they_add_up() -> None:
    model = exact(pattern="w", depth=2)
    found = profile(model, ROW, 0)
    (row,) = norms(model, ROW, [80])
    assert bool((row[:7] > 0).all()) and bool((row[7:] == 0).all())  # twice the three tokens before one
    assert all(b["memory"] is None for b in found["buckets"]) and found["buckets"][-1]["all"] == 0
    (line,) = gradient_findings(model)
    assert line.level == "ok" and "no layer has a memory; gradients reach 7 tokens back" in line.text


def test_buckets_are_means_over_places_relative_to_the_nearest_token() -> None:
    model = exact()
    found = profile(model, ROW, 3)
    assert len(set(found["places"])) == 4 and min(found["places"]) >= 68 and max(found["places"]) < 90
    mean = norms(model, ROW, found["places"]).mean(0)
    assert found["first"] == pytest.approx(float(mean[0]))
    assert [(b["from"], b["to"]) for b in found["buckets"][:4]] == [(1, 2), (2, 4), (4, 8), (8, 16)]
    assert found["buckets"][-1]["to"] == min(found["places"]) + 1
    for b in found["buckets"]:
        assert b["all"] == pytest.approx(float(mean[b["from"] - 1 : b["to"] - 1].mean() / mean[0]))
    again = profile(model, ROW[:, :60], 3), profile(model, ROW[:, :60], 3)
    assert again[0] == again[1]


def test_a_healthy_reach() -> None:
    for keys in ({}, {"segments": "logarithmic"}, {"cache": "none"}, {"memory": "gated_delta", "cache": "sparse"}):
        (line,) = gradient_findings(exact(**keys))
        assert line.level == "ok" and "through the memory" in line.text, (keys, line)


def test_vanishing_is_noticed() -> None:
    """A memory that forgets at once."""
    model = exact(depth=1, cache="none")
    model.blocks[0].mix.memory.gates.bias[:2].fill_(-60)  # type: ignore[union-attr]
    (line,) = gradient_findings(model)
    assert line.level == "warning" and line.text.startswith("vanishes: ")
    assert "2509.24552" in line.advice and "start=carry" in line.advice


def test_a_memory_that_is_not_connected_is_noticed() -> None:
    model = exact()
    for block in model.blocks:
        block.mix.norm.zero_()  # type: ignore[union-attr]
    (line,) = gradient_findings(model)
    assert line.level == "warning" and "vanishes" in line.text and "0.0e+00" in line.text


def test_a_cliff_is_noticed() -> None:
    buckets = [{"from": 2**k, "to": 2 ** (k + 1), "all": 0.1, "memory": 0.1 if k < 5 else 1e-4} for k in range(7)]
    model = make()
    assert recent(model.cfg) == 12
    (line,) = (f for f in all_findings(model.cfg, [], [], {"first": 1.0, "buckets": buckets}) if f.area == "gradient")
    assert line.level == "warning" and "falls 1e+03-fold from n = 16 to n = 32" in line.text


def test_exploding_is_noticed() -> None:
    """A recurrence whose weights are thirty times what they should be, and whose gates are half open."""
    model = exact(depth=1, memory="lstm", cache="none")
    model.blocks[0].mix.memory.lstm.weight_hh_l0.mul_(30)  # type: ignore[union-attr]
    model.blocks[0].mix.memory.lstm.bias_ih_l0.zero_()  # type: ignore[union-attr]
    (line,) = gradient_findings(model)
    assert line.level == "warning" and line.text.startswith("explodes: ") and "lower --lr" in line.advice


def test_gradients_that_are_no_numbers_or_nothing() -> None:
    model = exact()
    model.norm.weight.fill_(torch.nan)
    (line,) = gradient_findings(model)
    assert line.level == "warning" and "nan or infinite" in line.text
    model.norm.weight.zero_()
    (line,) = gradient_findings(model)
    assert line.level == "warning" and "0 at n = 1" in line.text


def test_a_short_text_says_nothing_about_the_far_past() -> None:
    model = exact()
    (line,) = (f for f in all_findings(model.cfg, [], [], profile(model, ROW[:, :12], 0)) if f.area == "gradient")
    assert line.level == "warning" and "at least 23 tokens" in line.advice
    (line,) = (f for f in all_findings(model.cfg, [], [], profile(model, ROW[:, :23], 0)) if f.area == "gradient")
    assert "not measured" not in line.text
