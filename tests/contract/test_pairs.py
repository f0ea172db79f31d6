"""Exact pairs beside a bank: against the oracle, in all ways in which a layer is used."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import ConfigError
from siltstone.schedule import window

from . import test_layer, test_state, test_step
from .common import PROBE, STREAM, agrees, close, differ, feed, make_layer, oracles, randn
from .grid import CASES, KEYLESS, Case
from .models import IDS, after, make_model, model_config, through_bytes, whole


@dataclass(frozen=True)
class Paired(Case):
    """A case of the gated cache with pairs."""

    @cached_property
    def cfg(self) -> dict[str, Any]:
        return Case(self.keys).cfg | {"cache_options": {"exact": 1 + 2 * self.factor["top_k"]}}


GATED = [c for c in CASES if c.factor["cache"] == "gated" and c.factor["memory"] not in (*KEYLESS, "slots")]
PAIRED = [Paired(case.keys) for case in GATED]
FEW = [
    next(x for x in PAIRED[i:] + PAIRED if x.factor["memory"] == m) for i, m in enumerate({c.factor["memory"]: 0 for c in PAIRED})
]


@pytest.mark.parametrize("case", PAIRED)
def test_forward_gradients_and_splits(case: Case) -> None:
    test_layer.test_forward_and_gradients(case)
    test_layer.test_every_split(case)


@pytest.mark.parametrize("case", FEW)
def test_rows_steps_and_bytes(case: Case) -> None:
    test_layer.test_rows_padding_resets_and_gradients_through_calls(case)
    test_step.test_ragged_rows_step_as_calls_do(case)
    test_step.test_a_state_of_steps_is_one_of_calls(case)
    test_state.test_forks_are_isolated_from_decoding_in_place(case)
    if case.cuts is None:
        model = make_model(model_config(case.cfg))
        close(model(IDS[:1, 17:], through_bytes(model, after(case, 17)))[0], whole(case)[:1, 17:])


BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=0, position="rope", write_delay="window", compress="identity",
    rate=1, memory="gated_delta", memory_options={}, cache="gated", segment=4, start="restart", segments="constant", router_dim=4,
    gate="sigmoid", cache_options={"exact": 3},
)  # fmt: skip


@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("keys", [{}, dict(write_delay=0, rate=2, compress="mean", compress_every=4), dict(start="carry")])
def test_calls_of_many_blocks(keys: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "BLOCK", block)
    cfg = BASE | keys
    layer, x, probe = make_layer(cfg), randn(60, 8, seed=6), randn(60, 8, seed=7)
    want = oracles(cfg, layer, x, probe)
    for calls in ([], [1, 30, 44]):
        agrees(layer, x, probe, want, calls=calls)


def test_what_is_kept_is_the_largest_beta_times_error() -> None:
    """A write with a large value stays; one that is hardly written does not, however wrong the memory is about it."""
    layer = make_layer(BASE)
    x = randn(300, 8, seed=8)
    x[100] *= 40.0
    with torch.no_grad():
        layer.mix.memory.gates.weight.zero_()  # every beta is the same
    _, state = feed(layer, x[None], None, [50, 200])
    kept = state.layers[0].kept
    assert 100 in kept.number[0].tolist() and kept.key.shape == (1, 3, 1, 2, 4) and kept.value.shape == (1, 3, 1, 2, 4)
    with torch.no_grad():
        layer.mix.memory.gates.weight[2:] = -10 * x[100].sign() / 40  # beta is next to 0 at this token
        _, state = feed(layer, x[None], None, [50, 200])
    assert 100 not in state.layers[0].kept.number[0].tolist()


def test_pairs_have_a_norm_of_their_own_and_the_bank_stays() -> None:
    layer, plain = make_layer(BASE), make_layer(BASE | {"cache_options": {}})
    plain.load_state_dict({name: x for name, x in layer.state_dict().items() if ".pairs." not in name})
    want, y = plain(STREAM[None])[0], layer(STREAM[None])[0]
    assert differ(want, y)
    with torch.no_grad():
        layer.mix.pairs.norm.zero_()
    close(layer(STREAM[None])[0], want)
    agrees(layer, STREAM, PROBE, oracles(BASE, layer, STREAM, PROBE))


def test_a_state_whose_pairs_do_not_fit_its_position_is_refused() -> None:
    model = make_model(model_config(BASE))
    tensors, meta = (state := model(IDS[:1, :20])[1]).tensors(), state.meta()
    model.load_state(tensors, meta)
    for name, value in (("kept.number", 17), ("kept.surprise", -torch.inf)):
        changed = tensors[f"layers.0.{name}"].clone()
        changed[0, 0] = value
        with pytest.raises(ValueError, match="does not hold what position"):
            model.load_state(tensors | {f"layers.0.{name}": changed}, meta)
    stores = {name: x for name, x in tensors.items() if ".bank." in name}
    shorter = {name: x[:, :, :-1] if x.dim() == 5 else x[:, :-1] for name, x in stores.items()}
    with pytest.raises(ValueError):
        model.load_state(tensors | shorter, meta)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"memory": "gru"}, "cache_options exact=3 keeps what a memory predicts badly, and memory='gru' has no keys"),
        ({"cache_options": {"exact": -1}}, "cache_options exact=-1"),
        ({"cache": "sparse"}, "cache_options has no key 'exact' for cache='sparse'"),
    ],
)
def test_settings_that_cannot_be(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        st.MemoryCaching(**{k: v for k, v in (BASE | keys).items() if v is not None})
