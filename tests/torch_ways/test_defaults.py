"""torch's default device and dtype are for modules that are made, and change nothing for those that are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st

from .models import BASE, EVERY, IDS, decoded, model, some_ids


@contextmanager
def default(device: str | None, kind: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_device(device)
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)


def used(lm: st.LM, ids: Tensor, mask: Tensor) -> list[Tensor]:
    """Numbers of a whole call, of one with padding, of its gradients, of decoding, and of a state that was saved."""
    y, state = lm(ids)
    masked, _ = lm(ids, lm.init_state(2, phase=[1, 0]), mask=mask)
    grads = torch.autograd.grad((y * y).sum() + masked.sum(), list(lm.parameters()))
    state = lm.load_state(state.detach().tensors(), state.meta())
    both = st.LMState.cat([state, state.select([1])]).fork().select([0, 1])
    return [y, masked, *grads, decoded(lm, ids), decoded(lm, ids, both), *state.tensors().values()]


@pytest.mark.parametrize(("number", "keys"), list(enumerate(EVERY)), ids=IDS)
def test_a_model_computes_what_it_did(number: int, keys: dict[str, Any]) -> None:
    device, kind = (("meta", torch.float32), ("cpu", torch.float64), ("meta", torch.float16))[number % 3]
    lm, ids = model(keys), some_ids()
    mask = torch.rand(2, 13, generator=torch.Generator().manual_seed(5)) < 0.7
    want = used(lm, ids, mask)
    with default(device, kind):
        got = used(lm, ids, mask)
    for x, y in zip(got, want, strict=True):
        assert x.dtype == y.dtype and x.device == y.device and torch.equal(x, y)


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_a_model_is_made_by_default_where_and_as_torch_says(keys: dict[str, Any]) -> None:
    """Without numbers on the device meta, and then filled in either of torch's ways; and in float64."""
    plain, ids = model(keys), some_ids()
    with torch.device("meta"):
        empty, other = (st.LM(st.LMConfig.from_dict(BASE | keys)) for _ in range(2))
    assert all(p.is_meta for p in empty.parameters())
    empty.to_empty(device="cpu").load_state_dict(plain.state_dict())
    other.load_state_dict(plain.state_dict(), assign=True)
    with torch.no_grad():
        want = plain(ids)[0]
        assert torch.equal(empty(ids)[0], want) and torch.equal(other(ids)[0], want)
        assert torch.equal(decoded(other, ids), decoded(plain, ids))
        double = {name: x.double() for name, x in plain.state_dict().items()}
        other.load_state_dict(double, assign=True)
        torch.testing.assert_close(other(ids)[0], plain.double()(ids)[0], rtol=0, atol=0)
    with default("cpu", torch.float64):
        wide = st.LM(st.LMConfig.from_dict(BASE | keys))
    assert all(p.dtype == torch.float64 for p in wide.parameters())
    wide.load_state_dict(double)
    with torch.no_grad():
        assert torch.equal(wide(ids)[0], plain(ids)[0])


def test_a_model_is_made_on_a_device_within_another_default() -> None:
    with default("meta", torch.float32), torch.device("cpu"):
        torch.manual_seed(0)
        lm = st.LM(st.LMConfig.from_dict(BASE))
    torch.manual_seed(0)
    for (name, x), y in zip(lm.state_dict().items(), st.LM(st.LMConfig.from_dict(BASE)).state_dict().values(), strict=True):
        assert torch.equal(x, y), name
