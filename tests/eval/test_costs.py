"""What a token costs: each part is counted from a model's tensors, whatever it does not read is not counted."""

from __future__ import annotations

from typing import Any

import pytest

import siltstone as st
from siltstone.eval.costs import costs

KEYS: dict[str, Any] = dict(
    vocab_size=64, d_model=32, heads=2, depth=2, mlp_dim=48, tie=False, window=8, segment=8, segments="constant", router_dim=16
)
BLOCKS = {"cache": "blocks", "router": "subblock:2", "top_k": 2, "cache_options": {"router_queries": 4, "route_every": 4}}


def found(length: int = 128, **keys: Any) -> tuple[int, int]:
    """Bytes read from the state, and FLOPs of it, without those of the weights."""
    cfg = st.LMConfig.from_dict(KEYS | keys)
    cost = costs(cfg, length)
    weights = 4 * (cost["parameters"] - cfg.vocab_size * cfg.layer.d_model)
    return cost["bytes_read"] - weights, cost["flops"] - weights // 2


def test_a_token_reads_the_chosen_blocks_alone() -> None:
    """Keys and values of 2 heads of 16: 256 bytes a token and layer. At 128, 15 blocks of 8 are sealed, two of them are chosen,
    and 8 tokens are near; 60 routing keys, 4 queries and the choice itself are read once in four tokens."""
    few, many = found(**BLOCKS)[0], found(**BLOCKS | {"top_k": 15})[0]
    assert many - few == pytest.approx(2 * (15 - 2) * (8 * 256 + 2 * 8 / 4), abs=1)  # a place of the choice has 8 bytes
    routing = (60 * 128 + 4 * 128 + 2 * 2 * 8) / 4
    assert few == pytest.approx(2 * ((2 * 8 + 8) * 256 + routing), abs=1)
    assert found(256, **BLOCKS)[0] - few == pytest.approx(2 * 64 * 128 / 4, abs=1)  # a longer text: only more routing keys


def test_blocks_that_heads_share_are_multiplied_by_each() -> None:
    """Two heads that share keys and values read half the bytes with the same FLOPs."""
    few, most = found(**BLOCKS | {"kv_heads": 1}), found(**BLOCKS)
    other = 2 * (4 * 128 + 2 * 2 * 8) / 4  # queries and choices, which are not shared, but the choice is of each head
    assert few[0] == pytest.approx((most[0] - other) / 2 + other, abs=2 * 2 * 8 / 4 + 1)
    assert few[1] == pytest.approx(most[1], abs=2 * 2 * 8 / 4 + 1)
    assert most[1] == pytest.approx((most[0] + 2 * 60 * 128 / 4 * (4 - 1)) / 2, abs=1)  # four queries read each routing key
    near, most = found(cache="none", pattern="w", kv_heads=1), found(cache="none", pattern="w")
    assert near[0] == most[0] // 2 and near[1] == most[1]


@pytest.mark.parametrize("router, keys", [("mean", 1), ("subblock:2", 4)])
def test_sparse_reads_every_routing_key_and_the_chosen_matrices(router: str, keys: int) -> None:
    """14 checkpoints are sealed at 128, each of 2 heads of 16 x 16 and `keys` routing keys of 16."""
    dense, two = found(cache="gated", router=router)[0], found(cache="sparse", router=router, top_k=2)[0]
    assert dense - two == 2 * (14 - 2) * 2 * 16 * 16 * 4
    none = found(cache="none")[0]
    assert two - none == 2 * (2 * 2 * 16 * 16 * 4 + (14 + 1) * keys * 16 * 4)  # the online segment has routing keys too


@pytest.mark.parametrize("keys", [{"segments": "logarithmic"}, {"max_checkpoints": 5}])
def test_banks_that_keep_few_are_read_as_far_as_they_are_kept(keys: dict[str, Any]) -> None:
    """A choice of as many as are kept reads them all."""
    dense, every, one = (found(cache=cache, top_k=k, **keys)[0] for cache, k in (("gated", 4), ("sparse", 99), ("sparse", 1)))
    assert dense == every > one
