"""torch.inference_mode for some calls, and other modes for others: a state goes on in any of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch

import siltstone as st

from .models import EVERY, IDS, model, some_ids

MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "grad": nullcontext,
}


ORDER = ["inference", "no_grad", "inference", "grad", "inference", "inference", "grad", "no_grad"]
CALLS = [0, 5, 6, 8, 9, 10, 11, 12, 13]


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_a_state_goes_on_in_another_mode(keys: dict[str, Any]) -> None:
    """Several tokens, one token, and one token that is donated, in each mode after each."""
    lm, ids = model(keys), some_ids()
    parts = list(zip(CALLS[:-1], CALLS[1:], strict=True))
    want, state = [], None
    with torch.no_grad():
        for a, b in parts:
            y, state = lm(ids[:, a:b], state)
            want.append(y)
    state, outs = None, []
    for (a, b), mode in zip(parts, ORDER, strict=True):
        with MODES[mode]():
            y, state = lm(ids[:, a:b], state, inplace=b == a + 1 and mode != "grad")
            if mode == "grad":
                y.square().sum().backward()
                state = state.detach()
            outs.append(y.detach())
    for x, y in zip(outs, want, strict=True):
        torch.testing.assert_close(x.clone(), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keys", EVERY, ids=IDS)
def test_what_is_made_of_such_a_state_goes_on_too(keys: dict[str, Any]) -> None:
    lm, ids = model(keys), some_ids()
    with torch.inference_mode():
        _, state = lm(ids)
    ways = [
        state.fork(),
        state.detach(),
        state.to(torch.float32),
        state.select([0, 1]),
        st.LMState.cat([state]),
        lm.load_state(state.tensors(), state.meta()),
    ]
    for other in ways:
        one, after = lm(ids[:, :1], other)
        one.sum().backward()
        with torch.no_grad():
            for _ in range(5):
                one, after = lm(ids[:, :1], after.detach(), inplace=True)


def test_a_session_goes_on_outside_inference_mode() -> None:
    tokenizer = st.ByteTokenizer()
    lm = st.LM(st.presets.nano(tokenizer.vocab_size, window=8, segment=8, pattern="ma", depth=2))
    plain, session = (st.Session(lm, tokenizer) for _ in range(2))
    plain.append("A stone, a river")
    with torch.inference_mode():
        session.append("A stone")
    session.append(", ")
    fork = session.fork()
    with torch.inference_mode():
        session.append("a riv")
        fork.append("a riv")
    for x in (session, fork):
        for letter in "er":
            x.append(letter)
        assert torch.allclose(x.logits, plain.logits, atol=1e-5)
        assert len("".join(x.generate(4, seed=1))) >= 1
