"""mlstm in single precision where its exponential gates would overflow: gates of e^200 and e^-200, and long texts."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import siltstone as st
from siltstone.config.layer import LayerConfig
from tests.contract.common import feed, gradients, named, randn, weights
from tests.contract.grid import used
from tests.oracle import layer as oracle_layer

KEYS: dict[str, Any] = dict(d_model=8, heads=2, memory="mlstm", segment=16, window=0, write_delay=0, router_dim=4)
STEEP = 200.0
WRITES = {
    "high": [1] * 40,
    "low": [-1] * 40,
    "in turns": [1, -1, 0, 0, -1] * 8,
    "late": [-1] * 20 + [1] * 20,
    "early": [1] * 5 + [-1] * 35,
    "small after one": [0] * 9 + [1] + [0] * 30,
}


def steep(forget: float = 4.0, **keys: Any) -> Any:
    """A layer whose input gates are 200 times the last channel, and whose forget gates stand near `forget`."""
    torch.manual_seed(0)
    layer = st.MemoryCaching(**used(KEYS | keys)).double()
    gates = layer.mix.memory.gates
    with torch.no_grad():
        gates.weight[:, -1] = 0
        gates.weight[2:] = 0
        gates.weight[2:, -1] = STEEP
        gates.bias.copy_(torch.tensor([forget, forget + 1, 0, 0]))
    return layer


def apart(got: torch.Tensor, want: torch.Tensor) -> float:
    """max|difference| / max(1, max|wanted|)."""
    return float((got - want).detach().abs().max()) / max(1.0, float(want.detach().abs().max()))


@torch.no_grad()
def slant(layer: Any, x: torch.Tensor) -> float:
    """The smallest |cos| between a query and the n that divides its answer, where |q n| > 1 and one write outweighs the rest.

    There o = q C / |q n| hardly depends on q: the two terms of its gradient are of size 1 / |q n| and cancel, in any dtype.
    """
    rule, smallest = layer.mix.memory, 1.0
    asked, written = rule.queries(x[None])[0, ..., :-1], {k: v[0] for k, v in rule.inputs(x[None]).items()}
    n = torch.zeros_like(written["key"][0])
    for t in range(len(x)):
        n = written["forget"][t].exp().unsqueeze(-1) * n + written["enter"][t].exp().unsqueeze(-1) * written["key"][t]
        large = (asked[t] * n).sum(-1).abs() > 1
        smallest = min([smallest, *F.cosine_similarity(asked[t], n, -1).abs()[large].tolist()])
    return smallest


@pytest.mark.parametrize("cache", ["none", "gated"])
@pytest.mark.parametrize("forget", [4.0, -STEEP])
@pytest.mark.parametrize("name", WRITES)
def test_single_precision_is_near_the_oracle(name: str, forget: float, cache: str) -> None:
    """The oracle has no stabiliser: double precision holds e^200 and its squares."""
    layer, x, probe = steep(forget, cache=cache), randn(40, 8, seed=307), randn(40, 8, seed=4)
    x[:, -1] = torch.tensor(WRITES[name])
    assert slant(layer, x) > 0.01  # or the oracle's gradient is beyond single precision, whatever computes it
    w = weights(layer)
    x.requires_grad_()
    want = oracle_layer.run(asdict(LayerConfig(**KEYS | dict(cache=cache))), w, x)
    dx_want, grads_want = gradients((want * probe).sum(), x, w)
    narrow, given = layer.float(), x.detach().float().requires_grad_()
    for cuts in ([], [7, 8, 30], range(1, 40)):
        y, state = feed(narrow, given[None], None, cuts)
        assert y.dtype == torch.float32 and all(t.isfinite().all() for t in state.tensors().values())
        assert (
            apart(y[0], want) <= 2 * STEEP * torch.finfo(torch.float32).eps
        )  # what rounding a gate of 200 makes of its exponential
        dx, grads = gradients((y[0] * probe.float()).sum(), given, named(narrow))
        for got, expected in ((dx, dx_want), *((grads[n], g) for n, g in grads_want.items())):
            assert apart(got, expected) <= 1e-3  # as above, and terms that cancel


@pytest.mark.parametrize("scale", [1.0, STEEP])
def test_ten_thousand_writes_stay_finite(scale: float) -> None:
    layer = steep(forget=9.0, cache="none")
    x = randn(1, 10_000, 8, seed=5)
    x[..., -1] *= scale / STEEP
    with torch.no_grad():
        want, _ = layer(x)
        y, state = layer.float()(x.float())
        assert apart(y, want) <= 1e-4
        held = state.layers[0].online
        assert held.matrix.isfinite().all() and held.stabiliser.isfinite().all() and (held.stabiliser >= 0).all()


@torch.no_grad()
def test_a_query_of_zeros_and_a_memory_without_writes_read_zeros() -> None:
    """There the divisor is e^-m, which underflows at m = 200, or nothing at all."""
    rule = steep(cache="none").float().mix.memory
    x = torch.zeros(1, 3, 8)
    x[..., -1], x[..., 0] = 1.0, 2.0
    slots, skip = {k: v.unsqueeze(1) for k, v in rule.inputs(x).items()}, torch.zeros(1, 1, dtype=torch.long)
    written = rule.scan(slots, None, skip, rule.init(1))
    after = rule.read_factors(written.ends.map(lambda e: e[:, 0]))[0]
    assert float(written.ends.stabiliser.min()) > 150 and float(after[..., -1, -1].max()) == 0.0
    silent = rule.queries(torch.zeros(1, 3, 8)).transpose(1, 2)
    asked = rule.queries(x).transpose(1, 2)
    for z, matrices, quiet in ((silent, after, True), (asked, after, False), (asked, torch.zeros_like(after), True)):
        found = rule.activation(0, z @ matrices, z)
        assert found.isfinite().all() and (found == 0).all() == quiet
    assert (rule.activation(0, written.read(0, silent.unsqueeze(1)), silent) == 0).all()
