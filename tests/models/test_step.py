"""`LM.step`: hybrids and rounded checkpoints at mixed ages, far positions, values, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import InputError
from siltstone.models.stream_state import LMState

BASE: dict[str, Any] = dict(
    vocab_size=23, d_model=16, depth=3, heads=2, window=5, segment=4, router_dim=4, segments="constant"
)  # fmt: skip
IDS = torch.randint(23, (4, 40), generator=torch.Generator().manual_seed(3))


def model(**keys: Any) -> st.LM:
    torch.manual_seed(0)
    return st.LM(st.LMConfig.from_dict(BASE | keys)).double().eval()


YARN = dict(type="yarn", factor=4.0, original_max_position_embeddings=16)
MODELS: list[dict[str, Any]] = [
    dict(pattern="wa", sinks=2, heads=4, kv_heads=2, qk_norm=True, qk_norm_eps=1e-3, qkv_bias=True, rope_scaling=YARN),
    dict(pattern="aw", qk_norm="all", norm="after", out_bias=True, mlp_bias=True, rope_theta=300.0),
    dict(pattern="wma", layers={"0": {"rope_theta": 50.0}, "2": {"position": "none"}}, norm="after", qkv_bias=True),
    dict(pattern="m", cache="exact", cache_options={"writes": 3}, rope_scaling=YARN, sinks=1, qkv_bias=True, out_bias=True),
    dict(pattern="mwa", sinks=2, short_conv=3, kv_heads=1),
    dict(pattern="am", position="alibi", depth=2, cache="sparse", top_k=2),
    dict(pattern="mm", depth=2, layers={"1": {"routing": "shared"}}, router="subblock:2"),
    dict(segments="logarithmic", memory="gated_delta", checkpoint_dtype="float32"),
    dict(cache="sparse", checkpoint_dtype="int8", max_checkpoints=3, evict="use"),
    dict(cache="gated", checkpoint_dtype="bfloat16"),
]


@pytest.mark.parametrize("keys", MODELS)
@torch.no_grad()
def test_rows_of_all_ages(keys: dict[str, Any]) -> None:
    lm, ages = model(**keys), (0, 3, 11, 26)
    want, _ = lm(IDS)
    state = LMState.cat([lm(IDS[b : b + 1, :age])[1] if age else lm.init_state(1) for b, age in enumerate(ages)])
    bound = 1e-10 if keys.get("checkpoint_dtype", "float32") == "float32" else 1e-6
    for turn in range(14):
        at = state.position
        active = torch.tensor([turn % (b + 2) != 1 for b in range(4)])
        ids = IDS[torch.arange(4), torch.from_numpy(at)]
        got, state = lm.step(ids, state, active)
        for b in range(4):
            if active[b]:
                assert float((got[b] - want[b, at[b]]).abs().max()) <= bound
        assert (state.position == at + active.numpy()).all()


@torch.no_grad()
def test_a_state_is_a_value_and_inactive_rows_keep_theirs() -> None:
    lm = model(pattern="mwa")
    _, state = lm(IDS[:, :13])
    before = {name: x.clone() for name, x in state.tensors().items()}
    active = torch.tensor([True, False, True, False])
    _, after = lm.step(IDS[:, 13], state, active)
    assert all(torch.equal(x, before[name]) for name, x in state.tensors().items())
    kept, were = after.select([1, 3]), state.select([1, 3])
    assert all(torch.equal(x, y) for x, y in zip(kept.tensors().values(), were.tensors().values(), strict=True))


@pytest.mark.parametrize("far", [10_000_000, 2**33])
@pytest.mark.parametrize("keys", [dict(), dict(sinks=2, cache="exact"), dict(position="alibi")])
@torch.no_grad()
def test_positions_never_run_out(far: int, keys: dict[str, Any]) -> None:
    lm = model(pattern="m", depth=1, **({"cache": "none"} | keys))
    state = lm.init_state(2)
    place = np.array([far, far + 5])
    state = dataclasses.replace(state, positions=dataclasses.replace(state.positions, position=place))
    want = lm(IDS[:2, :9], state)[0]
    for t in range(9):
        got, state = lm.step(IDS[:2, t], state)
        assert float((got - want[:, t]).abs().max()) <= 1e-9
    assert (state.position == place + 9).all()


@pytest.mark.parametrize(
    "given,words",
    [
        (dict(ids=IDS), "ids"),
        (dict(ids=torch.zeros(4)), "ids"),
        (dict(ids=torch.full((4,), 23)), "vocab_size"),
        (dict(active=torch.ones(3, dtype=torch.bool)), "active must be a bool tensor of shape (4,)"),
        (dict(active=[True] * 4), "active must be a bool tensor"),
        (dict(reset=torch.ones(4)), "reset must be a bool tensor"),
        (dict(cut=torch.ones(4, dtype=torch.bool)), "segments='content'"),
        (dict(rows=3), "3 rows"),
        (dict(state="no state"), "state must be"),
    ],
)
def test_what_is_refused(given: dict[str, Any], words: str) -> None:
    lm = model()
    given = dict(given)
    state = given.pop("state", lm.init_state(given.pop("rows", 4)))
    with pytest.raises(InputError) as error:
        lm.step(given.pop("ids", IDS[:, 0]), state, **given)
    assert words in str(error.value)
