"""Parts of a layer that can be left out, and what differs from block to block: laws, and what they keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st

from .common import close, differ
from .grid import used
from .models import IDS, make_model, model_config, same_bits, stepwise, through_bytes
from .test_lm import LAYER

every_pattern = pytest.mark.parametrize("pattern", ["m", "w", "a"])


def outputs(model: Any, ids: Tensor = IDS) -> Tensor:
    return model(ids)[0]


def models(pattern: str, first: dict[str, Any], second: dict[str, Any]) -> tuple[Any, Any]:
    """Two models with the same weights, as far as both have them."""
    a, b = (make_model(model_config(LAYER, pattern=pattern, **keys)) for keys in (first, second))
    mine = a.state_dict()
    b.load_state_dict(
        {name: mine[name] if name in mine and mine[name].shape == x.shape else x for name, x in b.state_dict().items()}
    )
    return a, b


@every_pattern
def test_a_short_convolution_begins_with_the_token_before_and_may_be_none(pattern: str) -> None:
    plain, convolved = models(pattern, {}, dict(short_conv=5))
    fresh = st.LM(st.LMConfig.from_dict(used(model_config(LAYER, pattern=pattern, short_conv=5))))
    taps = fresh.blocks[0].mix.conv.taps
    assert not taps[[0, 2, 3, 4]].any() and 0.1 < float(taps[1].detach().std()) < 1.0
    assert differ(outputs(convolved), outputs(plain))
    with torch.no_grad():
        convolved.blocks[0].mix.conv.taps.zero_()
    assert torch.equal(outputs(convolved), outputs(plain))


@every_pattern
@pytest.mark.parametrize("keys", [{}, dict(position="alibi"), dict(qk_norm=True)])
def test_shared_keys_are_repeated_keys(pattern: str, keys: dict[str, Any]) -> None:
    shared, whole = models(pattern, keys | dict(heads=4, kv_heads=2), keys | dict(heads=4))
    with torch.no_grad():
        q, k, v = shared.blocks[0].mix.window.qkv.weight.split([16, 8, 8])
        k, v = (z.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for z in (k, v))
        whole.blocks[0].mix.window.qkv.weight.copy_(torch.cat([q, k, v]))
    close(outputs(shared), outputs(whole))


@every_pattern
def test_normalised_queries_and_keys_do_not_see_their_lengths(pattern: str) -> None:
    model, longer = models(pattern, dict(qk_norm=True), dict(qk_norm=True))
    with torch.no_grad():
        longer.blocks[0].mix.window.qkv.weight[:16] *= 1e4
        model.blocks[0].mix.window.qkv.weight[:16] *= 1e7  # far from the epsilon, both
    assert float((outputs(model) - outputs(longer)).abs().max()) < 1e-8


@every_pattern
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_what_is_kept_of_keys_and_values(pattern: str, kv_heads: int) -> None:
    """Bytes: 8 for each number; widths of 4 and 3; a window of 4 and one sink; 40 tokens were read."""
    keys = dict(heads=4, kv_heads=kv_heads, value_dim=3, sinks=1 if pattern != "a" else 0)
    model, plain = (make_model(model_config(LAYER, pattern=pattern, **keys, short_conv=n)) for n in (3, 0))
    entries = {"m": 4 + 1, "w": 4 + 1, "a": 40}[pattern]
    state, without = model(IDS)[1], plain(IDS)[1]
    part, unwritten = ("attention", 0) if pattern == "a" else ("window", 4 * 8 if pattern == "m" else 0)
    assert without.parts()[part] == 3 * 8 * (entries * kv_heads * (4 + 3) + unwritten)
    assert state.parts()["window"] - without.parts()["window"] == 3 * 8 * 2 * 8  # the last two inputs
    assert state.nbytes - without.nbytes == 3 * 8 * 2 * 8 and sum(state.parts().values()) == state.nbytes


def test_a_convolved_state_keeps_nothing_else_alive() -> None:
    """The last inputs are a copy, not a view of all of the call's."""
    for pattern in ("m", "w", "a"):
        _, state = make_model(model_config(LAYER, pattern=pattern, short_conv=3))(IDS)
        conv = state.layers[0].conv
        assert conv.untyped_storage().nbytes() == conv.nbytes


MIXED: dict[str, Any] = dict(
    pattern="mw am", depth=5, position="alibi", kv_heads=1, short_conv=3,
    layers={
        0: dict(memory="titans", window=3, segment=6, segments="logarithmic"),
        "1": dict(window=7),
        "-1": dict(memory="delta", rate=2, compress="mean", segment=6),
    },
)  # fmt: skip


def test_a_state_of_different_layers_is_saved_and_goes_on_bit_by_bit() -> None:
    model = make_model(model_config(LAYER, **MIXED))
    _, state = model(IDS[:, :21], model.init_state(3, phase=[0, 1, 2]))
    back = through_bytes(model, state)
    same_bits(back, state)
    (y, one), (z, two) = (stepwise(model, IDS[:, 21:33], s, inplace=True) for s in (state.fork(), back))
    assert torch.equal(y, z)
    same_bits(one, two)
    with pytest.raises(ValueError, match="phase must be below 3"):
        model.load_state(state.tensors(), state.meta() | dict(phase=[0, 0, 3]))


@pytest.mark.parametrize("keys", [dict(pattern="a", kv_heads=1), dict(pattern="aw", depth=2, position="alibi", short_conv=3)])
def test_forks_go_on_with_texts_of_their_own(keys: dict[str, Any]) -> None:
    model = make_model(model_config(LAYER, **keys))
    _, state = stepwise(model, IDS[:1, :9], None, inplace=True)
    states, texts = [state, state.fork()], torch.cat([IDS[:1, :9].expand(2, -1), IDS[1:, 9:]], 1)
    want, at = outputs(model, texts), 9
    for size in (1, 1, 4, 1, 2, 1, 1, 9, 1):
        for b in (1, 0):
            y, states[b] = model(texts[b : b + 1, at : at + size], states[b], inplace=True)
            close(y, want[b : b + 1, at : at + size])
        at += size


def test_phases_are_those_of_the_shortest_segment() -> None:
    model = make_model(model_config(LAYER, **MIXED))  # writes a segment: 6, 4 and 3 in the blocks with a memory
    assert model.cfg.phases == 3
    with pytest.raises(st.errors.InputError, match="from 0 to 2"):
        model.init_state(1, phase=[3])
    assert make_model(model_config(LAYER, pattern="wa", depth=2)).cfg.phases == 4
