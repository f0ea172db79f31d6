"""bfloat16 weights: what a memory accumulates, and a gate's bias, are not rounded to them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import siltstone as st
from siltstone.memory.base import logits


def layer(memory: str) -> st.MemoryCaching:
    torch.manual_seed(0)
    return st.MemoryCaching(16, heads=2, window=0, write_delay=0, memory=memory, cache="none").to(torch.bfloat16)


@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_a_network_keeps_its_state_as_in_double_precision(memory: str) -> None:
    """The same rounded weights and tokens, run in float64, end at the same state; each write rounded would be 1e-2 off."""
    rule = layer(memory).mix.memory
    exact = copy.deepcopy(rule).double()
    token = torch.randn(2, 1, 500, 16).to(torch.bfloat16)
    with torch.no_grad():
        for count in (None, torch.tensor([500, 133])):
            valid = None if count is None else (torch.arange(500) < count[:, None]).unsqueeze(1)
            got, want = (
                r.scan({"token": token.to(kind)}, valid, torch.zeros(2, 1, dtype=torch.long), r.init(2)).ends
                for r, kind in ((rule, torch.bfloat16), (exact, torch.float64))
            )
            for (name, a), (_, b) in zip(got.leaves(), want.leaves(), strict=True):
                assert a.dtype == torch.float32
                assert float((a - b).abs().max()) < 1e-5 * max(1.0, float(b.abs().max())), name


@pytest.mark.parametrize("autocast", [False, True])
def test_a_gates_bias_is_not_rounded_with_the_product(autocast: bool) -> None:
    """-6 + 0.01 is -6 in bfloat16."""
    kind = torch.float32 if autocast else torch.bfloat16
    gates = nn.Linear(2, 1).to(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        gates.weight.fill_(0.5)
        gates.bias.fill_(-6.0)
        found = logits(gates, torch.tensor([[0.01, 0.01]], dtype=kind))
        assert found.dtype == torch.float32 and abs(float(found) + 5.99) < 1e-4
        assert abs(float(gates(torch.tensor([[0.01, 0.01]], dtype=kind))) + 5.99) > 1e-3


@pytest.mark.parametrize("memory", ["gated", "delta", "deep", "titans", "swla", "mlstm", "slstm", "min_gru", "min_lstm"])
def test_every_rule_with_a_gates_bias_takes_it_so(memory: str) -> None:
    """With a large bias, inputs are those of float64 to a product's error."""
    rule = layer(memory).mix.memory
    gates = rule.gates if hasattr(rule, "gates") else rule.write
    with torch.no_grad():
        gates.weight.fill_(2.0**-9)
        gates.bias.fill_(-6.0)
        c = torch.ones(1, 1, 16, dtype=torch.bfloat16)
        found = logits(gates, c)
        assert bool((found == -6.0 + 2.0**-5).all())
        exact = copy.deepcopy(rule).double()
        got, want = rule.inputs(c), exact.inputs(c.double())
        for name, x in want.items():
            assert float((got[name].double() - x).abs().max()) < 0.004 * max(1.0, float(x.abs().max())), name
