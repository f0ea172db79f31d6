"""Half precision by autocast: gradients are finite and near those of float32, and quotients are taken wide."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import siltstone as st

from .models import CACHES, COMPRESSORS, RULES, model, some_ids

NEAR = {torch.float16: 0.05, torch.bfloat16: 0.4}
SCALE = 2.0**10  # of the loss: small gradients vanish in float16
CASES = RULES + [keys for keys in CACHES if "segments" in keys or "gate" in keys] + COMPRESSORS[:-1]


@pytest.mark.parametrize("kind", NEAR)
@pytest.mark.parametrize("keys", CASES, ids=lambda keys: " ".join(map(str, keys.values())))
def test_gradients_are_near_those_of_float32(keys: dict[str, Any], kind: torch.dtype) -> None:
    lm, ids = model(keys), some_ids(tokens=30)

    def gradients(narrow: bool) -> dict[str, Tensor]:
        lm.zero_grad()
        with torch.autocast("cpu", kind, enabled=narrow):
            y, _ = lm(ids)
        loss = SCALE * F.cross_entropy(y.float().flatten(0, 1), ids.flatten())
        loss.backward()
        return {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}

    want, got = gradients(False), gradients(True)
    largest = max(float(x.norm()) for x in want.values())
    for name, x in want.items():
        assert got[name].isfinite().all(), name
        assert float((got[name] - x).norm()) <= NEAR[kind] * (float(x.norm()) + 0.01 * largest), name


@pytest.mark.parametrize("kind", NEAR)
@pytest.mark.parametrize("small", [1e-4, 3e-4, 1e-2, 1.0])
@pytest.mark.parametrize(
    "keys", [{"memory": "mlstm"}, {"memory": "linear", "memory_options": {"feature": "elu", "normalise": True}}]
)
def test_a_small_divisor_has_the_gradient_of_double_precision(keys: dict[str, Any], small: float, kind: torch.dtype) -> None:
    """The square of the divisor, which its gradient is divided by, is 0 in float16 below 2e-4."""
    rule: Any = st.MemoryCaching(8, heads=2, cache="none", **keys).mix.memory
    parts = [torch.tensor([0.3, -0.7, 0.5, 0.2]) * small, torch.tensor([small])]
    z = torch.cat([*parts, torch.tensor([small / 8])] if rule.normalizer == 2 else parts).to(kind).requires_grad_()
    exact = z.detach().double().requires_grad_()
    out, want = (rule.activation(0, x, x) for x in (z, exact))
    assert out.dtype == kind
    (got,), (grad,) = (torch.autograd.grad(y[..., 0].sum() * 1e-1, x) for y, x in ((out, z), (want, exact)))
    bound = 8 * torch.finfo(kind).eps
    if rule.normalizer == 1:  # 1e-6 beside the divisor
        bound = max(bound, 0.02)
    assert float((out.double() - want).detach().abs().max()) <= bound
    assert float((got.double() - grad).abs().max()) <= bound * float(grad.abs().max())
