"""Copies, dtypes, devices, and blocks that are computed again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import siltstone as st
from siltstone.errors import InputError

from .models import EVERY, IDS, decoded, model, some_ids


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_copies_of_a_model_and_of_a_state(keys: dict[str, Any]) -> None:
    lm, ids = model(keys), some_ids()
    with torch.no_grad():
        want, state = lm(ids)
        deep, shallow, loaded = copy.deepcopy(lm), copy.copy(lm), st.LM(lm.cfg)
        loaded.load_state_dict({name: x.clone() for name, x in lm.state_dict().items()}, strict=True)
        for twin in (deep, shallow, loaded, copy.deepcopy(shallow)):
            assert torch.equal(twin(ids)[0], want)
        lm.embed.weight.mul_(2)
        assert torch.equal(deep(ids)[0], want) and torch.equal(shallow(ids)[0], lm(ids)[0])
        assert lm.share_memory() is lm and torch.equal(lm(ids)[0], shallow(ids)[0])
        later = copy.deepcopy(state)
        assert torch.equal(decoded(deep, ids, later), decoded(deep, ids, state))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["gated", "lstm", "deep", "mlstm", "linear"])
def test_models_in_other_dtypes(name: str, kind: torch.dtype) -> None:
    lm, ids = model({"memory": name, "memory_options": {"inner_batch": 2} if name == "deep" else {}}), some_ids()
    with torch.no_grad():
        want, _ = lm(ids)
        lm.to(kind)
        got, state = lm(ids)
        assert got.dtype == kind and float((got.float() - want).norm() / want.norm()) < 0.05
        assert decoded(lm, ids, state).isfinite().all()
    lm(ids)[0].float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == kind and bool(p.grad.isfinite().all()) for p in lm.parameters())


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_a_model_without_numbers_gives_shapes(keys: dict[str, Any]) -> None:
    """On the device meta; where something must be chosen by its number, that is said."""
    lm, ids = model(keys).to("meta"), some_ids().to("meta")
    try:
        y, state = lm(ids)
        assert y.is_meta and y.shape == (2, 13, 23) and state.position.tolist() == [13, 13]
    except InputError as error:
        assert "meta" in str(error)


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_may_be_computed_again(reentrant: bool) -> None:
    lm, ids = model({"depth": 2, "cache": "sparse"}).double(), some_ids()
    want = torch.autograd.grad(lm(ids)[0].square().sum(), list(lm.parameters()))
    for block in lm.blocks:
        call = block.forward
        block.forward = lambda *x, call=call: checkpoint(call, *x, use_reentrant=reentrant)  # type: ignore[method-assign]
    lm(ids)[0].square().sum().backward()
    for p, x in zip(lm.parameters(), want, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, x, rtol=1e-9, atol=1e-9)


def test_a_layer_is_copied_alike() -> None:
    layer, x = st.MemoryCaching(8, heads=2, window=2, segment=4), torch.randn(1, 9, 8)
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])
