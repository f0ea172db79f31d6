"""router="anchor:m": keys that are read from states, against the oracle, in all ways in which a layer is used."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.cache.anchors import AnchorRouter
from siltstone.errors import ConfigError
from siltstone.eval.arms import route_at_random
from siltstone.eval.routing_map import routing_map

from . import test_layer, test_pages, test_state, test_step
from .common import STREAM, close, differ, init_state, make_layer
from .grid import CASES, MEMORIES, ROUTED, Case
from .models import IDS, after, make_model, model_config, through_bytes, whole


def anchored(case: Case) -> Case | None:
    """The case with anchors; None for those that merge checkpoints or have no routing."""
    f = case.factor
    if f["cache"] not in ROUTED or f["segments"] == "logarithmic" or f["budget"].startswith("merge"):
        return None
    return Case(tuple((f | {"router": ("anchor:1", "anchor:3")[CASES.index(case) % 2]}).items()))


ANCHORED = [found for case in CASES if (found := anchored(case)) is not None]
FEW = [next(x for x in ANCHORED[i:] + ANCHORED if x.factor["memory"] == memory) for i, memory in enumerate(MEMORIES)]
every_case = pytest.mark.parametrize("case", ANCHORED[::2])
some = pytest.mark.parametrize("case", FEW)


@every_case
def test_forward_gradients_and_splits(case: Case) -> None:
    test_layer.test_forward_and_gradients(case)
    test_layer.test_every_split(case)


@some
def test_rows_and_steps(case: Case) -> None:
    test_layer.test_rows_padding_resets_and_gradients_through_calls(case)
    test_step.test_ragged_rows_step_as_calls_do(case)
    test_step.test_a_state_of_steps_is_one_of_calls(case)


@some
def test_states_are_values_and_go_through_bytes(case: Case) -> None:
    test_state.test_forward_is_pure(case)
    test_state.test_forks_are_isolated_from_decoding_in_place(case)
    model = make_model(model_config(case.cfg))
    if case.cuts is None:
        state = through_bytes(model, after(case, 17))
        close(model(IDS[:1, 17:], state)[0], whole(case)[:1, 17:])


@pytest.mark.parametrize("case", test_pages.growing(FEW)[::4])
def test_sealed_states_in_pages(case: Case) -> None:
    test_pages.test_calls_and_steps_of_ragged_rows(case)


def test_the_cases_reach_what_they_should() -> None:
    seen = {(x.factor[name], x.factor["router"]) for name in ("gate", "cache", "budget", "cuts") for x in ANCHORED[::2]}
    for value in ("softmax", "sigmoid", "gated", "soup", "sparse", "none", "age2", "use2", "few"):
        assert {(value, "anchor:1"), (value, "anchor:3")} & seen
    assert {x.factor["memory"] for x in FEW} == {*MEMORIES} and {x.factor["gate"] for x in FEW} == {"softmax", "sigmoid"}


BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, window=3, memory="gated", cache="sparse", top_k=1, segment=4, segments="constant",
    router="anchor:2", router_dim=4,
)  # fmt: skip


def test_the_keys_are_read_from_the_sealed_states() -> None:
    """From the state alone, whenever it is read."""
    layer = make_layer(BASE)
    router, memory = layer.mix.router, layer.mix.memory
    assert isinstance(router, AnchorRouter) and router.key.weight.shape == (4, 8) and router.anchor.shape == (2, 8)
    with torch.no_grad():
        _, state = layer(STREAM[None], init_state(layer, 1))
        sealed = state.layers[0].bank.store.views()
        factors, keys = sealed[0].transpose(1, 2), sealed[1]  # [1, N, H, K, V], [1, N, J, U]
        close(router.read(memory, (factors,)), keys)
        assert differ(router.read(memory, (factors.flip(1),)), keys)


def test_random_routing_and_maps() -> None:
    model = make_model(model_config(BASE))
    ids = IDS[:1].expand(2, -1)
    learnt = model(ids)[0]
    found = routing_map(model, ids[0], samples=1)
    assert found is not None and len(found["rows"][-1]["shares"]) > 2
    route_at_random(model, 0)
    assert differ(model(ids)[0], learnt)


@pytest.mark.parametrize("size", ["", ":", ":0", ":257", ":x", ":-1", ":٣"])
def test_a_number_of_anchors_that_cannot_be(size: str) -> None:
    with pytest.raises(ConfigError, match=r"router='anchor.*m from 1 to 256 anchor tokens, for example 'anchor:4'"):
        st.MemoryCaching(**{**BASE, "router": f"anchor{size}"})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"segments": "logarithmic"}, "merges checkpoints; set segments='constant' or 'content'"),
        ({"max_checkpoints": 2, "evict": "merge"}, "evict='merge' merges checkpoints"),
        ({"cache": "blocks", "top_k": 2}, "cache='blocks' keeps none; choose router='subblock:2'"),
        ({"cache": "none", "top_k": 4, "router_dim": 64}, "router='anchor:2' has no effect"),
    ],
)
def test_what_anchors_exclude(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        st.MemoryCaching(**BASE | keys)
