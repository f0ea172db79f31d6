"""States and inputs that do not fit are refused with a sentence, also where their shapes would."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import InputError

KEYS: dict[str, Any] = dict(heads=2, window=4, segment=8, memory="gated", max_checkpoints=4, evict="use")
OTHERS: list[dict[str, Any]] = [
    dict(segment=16),
    dict(start="carry"),
    dict(max_checkpoints=2),
    dict(evict="age"),
    dict(memory="linear"),
    dict(position="alibi"),
    dict(cache="soup"),
    dict(router="subblock:4"),
    dict(checkpoint_dtype="int8"),
    dict(window=6),
]


def layer(**keys: Any) -> st.MemoryCaching:
    torch.manual_seed(0)
    return st.MemoryCaching(16, **KEYS | keys)


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_other_keys_is_refused_by_their_names(other: dict[str, Any]) -> None:
    x = torch.randn(1, 40, 16)
    (key, value), state = next(iter(other.items())), layer()(x)[1]
    for moved in (state, state.fork(), state.select([0]), state.detach(), state.cat([state, state]).select([1]), state.to("cpu")):
        with pytest.raises(InputError, match=rf"made with .*{key}=.*{key}={value!r}.*fresh state"):
            layer(**other)(x[:, :3], moved)
    with pytest.raises(InputError, match=f"the first of the states has .*{key}="):
        state.cat([state, layer(**other)(x)[1]])
    with pytest.raises(InputError, match=rf"made with .*{key}=.*this layer has .*{key}={value!r}"):
        layer(**other).load_state(state.tensors(), json.loads(json.dumps(state.meta())))


def test_a_state_goes_on_in_a_model_of_the_same_keys() -> None:
    one, two, ids = st.LM(st.presets.nano(64)), st.LM(st.presets.nano(64)), torch.zeros(1, 5, dtype=torch.long)
    state = one(ids)[1]
    assert two(ids, two.load_state(state.tensors(), state.meta()))[1].position.tolist() == [10]
    assert two(ids, state)[1].position.tolist() == [10]
    with pytest.raises(InputError, match="made with segment=64, and this model has segment=32"):
        st.LM(st.presets.nano(64, segment=32))(ids, state)


def test_other_dtypes_and_things_that_are_no_states() -> None:
    x, mine = torch.randn(1, 20, 16), layer()
    state = mine(x)[1]
    with pytest.raises(InputError, match=r"x is torch.float64, .*x.to\(torch.float32\)"):
        mine(x.double())
    with pytest.raises(InputError, match=r"state is torch.float64, .*state.to\(torch.float32\)"):
        mine(x, state.to(torch.float64))
    with pytest.raises(InputError, match="state must be .* int was given"):
        mine(x, 5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="row 7 .* 1 rows"):
        state.select([7])
    with pytest.raises(InputError, match="at least one"):
        state.cat([])
    with torch.autocast("cpu", torch.bfloat16):  # where each product has a dtype of its own
        assert mine(x.bfloat16(), state)[0].isfinite().all()


def test_a_models_state_is_no_layers() -> None:
    model, mine, ids = st.LM(st.presets.nano(64)), layer(), torch.zeros(1, 5, dtype=torch.long)
    with pytest.raises(InputError, match=r"a layer's \(st.MemoryCaching\), and one that is a model's \(st.LM\) is required"):
        model(ids, mine(torch.randn(1, 3, 16))[1])
    with pytest.raises(InputError, match=r"a model's \(st.LM\), and one that is a layer's"):
        mine(torch.randn(1, 3, 16), model(ids)[1])


def test_a_saved_state_that_does_not_fit_is_refused() -> None:
    mine, x = layer(), torch.randn(1, 20, 16)
    state = mine(x)[1]
    tensors, meta = state.tensors(), state.meta()
    assert torch.equal(mine(x, mine.load_state(tensors, meta))[0], mine(x, state)[0])
    for damaged, words in (({}, "'position'"), ({"position": [20]}, "'counts'"), (meta | {"phase": [99]}, "phase must be")):
        with pytest.raises(InputError, match=words):
            mine.load_state(tensors, damaged)
    with pytest.raises(InputError, match="is missing"):
        mine.load_state({}, meta)
    for given in ({"device": "float64"}, {"dtype": "float64"}):
        with pytest.raises(InputError, match="'float64' is (none|not)"):
            state.to(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["m", "w", "a"])
def test_dtypes_are_told_of_every_kind_of_layer(pattern: str) -> None:
    model, ids = st.LM(st.presets.nano(64, pattern=pattern)), torch.zeros(1, 5, dtype=torch.long)
    state = model(ids)[1]
    with pytest.raises(InputError, match=r"state is torch.float32, and the model torch.float64; give state.to\(torch.float64\)"):
        model.double()(ids, state)
    assert model(ids, state.to(torch.float64))[1].position.tolist() == [10]


@pytest.mark.parametrize("one,other", [({"cache": "none"}, {}), ({}, {"pattern": "a"}), ({"pattern": "w"}, {"pattern": "a"})])
def test_saved_states_of_other_shapes_are_refused_without_their_keys(one: dict[str, Any], other: dict[str, Any]) -> None:
    """As of a state that was saved before states said their keys."""
    ids = torch.zeros(1, 90, dtype=torch.long)
    state = st.LM(st.presets.nano(64, **one))(ids)[1]
    tensors, meta = state.tensors(), {key: value for key, value in state.meta().items() if key != "keys"}
    with pytest.raises(InputError):
        st.LM(st.presets.nano(64, **other)).load_state(tensors, meta)
    with pytest.raises(InputError, match="tensors must be"):
        st.LM(st.presets.nano(64, **one)).load_state(None, meta)  # type: ignore[arg-type]


def test_padding_may_hold_anything() -> None:
    x = torch.full((1, 3, 16), float("nan"), requires_grad=True)
    y, _ = layer()(x, mask=torch.zeros(1, 3, dtype=torch.bool))
    y.sum().backward()
    assert not y.any() and x.grad is not None and not x.grad.any()
