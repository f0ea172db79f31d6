"""The oracle's blocks: closed forms, choices made by hand, and what no token may see."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from .blocks import BlocksRow, run
from .layer import run as run_layer
from .weights import BASE, layer_weights, stream
from .window import Config, project

ROUTE = dict(router_queries=4, route_every=3)
BLOCKS = BASE | dict(cache="blocks", router="subblock:2", segment=4, top_k=2, cache_options=ROUTE)


def config(router_queries: int = 4, route_every: int = 3, **keys: Any) -> Config:
    return BLOCKS | keys | dict(cache_options=dict(router_queries=router_queries, route_every=route_every))


def turned(z_NK: Tensor) -> Tensor:
    """Row n rotated to place n, by complex numbers."""
    half = z_NK.shape[-1] // 2
    angle = torch.arange(len(z_NK)).double()[:, None] * 10000 ** (-torch.arange(half).double() / half)
    pair = torch.complex(z_NK[..., :half], z_NK[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pair.real, pair.imag], -1)


def after(cfg: Config, length: int, seed: int = 1) -> BlocksRow:
    row = BlocksRow(cfg, layer_weights(cfg))
    for x_D in stream(length, seed=seed):
        row.step(x_D)
    return row


@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (4, 1)])
@pytest.mark.parametrize("every,sinks,segment", [*itertools.product([1, 5, 7], [0, 2], [2, 4])])
def test_a_choice_of_every_block_is_full_attention(every: int, sinks: int, segment: int, heads: tuple[int, int]) -> None:
    """With rotations: all tokens are shown in order, so their places in the buffer are their positions."""
    H, J = heads
    cfg = config(route_every=every, sinks=sinks, segment=segment, top_k=20, heads=H, kv_heads=J, head_dim=8 // H)
    w, x = layer_weights(cfg), stream(25)
    want = run_layer(cfg, w, x, kind="attention")
    assert (run(cfg, w, x) - want).abs().max() < 1e-12
    assert (run(cfg | dict(top_k=1), w, x) - want).abs().max() > 1e-3


@pytest.mark.parametrize("keys", [{}, dict(sinks=2, qk_norm=True), dict(heads=4, kv_heads=2, head_dim=2, value_dim=3)])
def test_the_last_token_is_torchs_attention_over_its_buffer(keys: Config) -> None:
    """Keys and query are rotated to their places; a text of 40 tokens has no angle beyond the buffer's length."""
    cfg = config(**keys)
    row, last = after(cfg, 39), stream(40, seed=4)[-1]
    y, w = row.step(last), layer_weights(cfg)
    kv = [project(cfg, w, x_D)[1:] for x_D in [*stream(39), last]]
    q_HK, _, _ = project(cfg, w, last)
    H, J, sinks = cfg["heads"], cfg.get("kv_heads") or cfg["heads"], cfg["sinks"]
    offered = (40 - sinks - 3) // 4  # at position 39 = 13 * 3 the choice is renewed
    heads = []
    for h in range(H):
        j = h // (H // J)
        blocks = [range(sinks + 4 * b, sinks + 4 * b + 4) for b in row.chosen[j]]
        seen = [*range(sinks), *itertools.chain(*blocks), *range(sinks + 4 * offered, 40)]
        k, v = torch.stack([kv[i][0][j] for i in seen]), torch.stack([kv[i][1][j] for i in seen])
        q = turned(q_HK[h].expand(len(seen), -1))[-1:]
        heads.append(scaled_dot_product_attention(q[None], turned(k)[None], v[None])[0, 0])
    assert all(len(chosen) == 2 < offered for chosen in row.chosen)
    assert torch.allclose(y, w["out.weight"] @ torch.cat(heads), rtol=0, atol=1e-7)


@pytest.mark.parametrize("sinks,window,segment,every", [*itertools.product([0, 3], [1, 4], [2, 6], [1, 4, 5])])
def test_which_tokens_are_where_is_the_closed_form(sinks: int, window: int, segment: int, every: int) -> None:
    """Sinks, blocks offered, and all that left since: every token once. The value of a token is its position."""
    cfg = config(route_every=every, sinks=sinks, window=window, segment=segment, top_k=20, router="subblock:1")
    row = BlocksRow(cfg, {})
    for t in range(31):
        row.read(torch.zeros(2, 4), torch.zeros(2, 4), torch.full((2, 4), float(t)))
        renewed = t - t % every  # the token of the last renewal
        assert row.offered == max(0, renewed + 1 - sinks - window) // segment
        assert len(row.sealed) == max(0, t + 1 - sinks - window) // segment
        for j in range(2):
            assert [int(v_JV[j, 0]) for _, v_JV in row.buffer(j)] == list(range(t + 1))


def vector(*at: int, size: float = 40.0) -> Tensor:
    """[1, 4] with `size` at some places."""
    return torch.tensor([[size if i in at else 0.0 for i in range(4)]], dtype=torch.float64)


def feed(row: BlocksRow, keys: list[Tensor], queries: list[Tensor]) -> None:
    for k_JK, q_HK in zip(keys, queries, strict=True):
        row.read(q_HK, k_JK, torch.zeros_like(k_JK))


ONE = dict(heads=1, kv_heads=1, window=1, segment=2, router="subblock:1", top_k=1)
SILENT, BY = vector(), [vector(0), vector(0), vector(1), vector(1), vector(2), vector(2)]  # three blocks of two equal keys


def choice(queries: list[Tensor], more: int = 0, **keys: Any) -> list[list[int]]:
    """What is chosen at the renewal after these queries, which follow three blocks and a token in the window."""
    cfg = config(**ONE | dict(router_queries=2, route_every=1) | keys)
    row = BlocksRow(cfg, {})
    before = [*BY, *[vector(3)] * (len(queries) + 1)]
    H, J = cfg["heads"], cfg["kv_heads"]
    feed(row, [k.expand(J, 4) for k in before], [*[SILENT.expand(H, 4)] * (len(before) - len(queries)), *queries])
    row.offer()
    row.renew()
    return row.chosen


def test_the_block_that_a_query_matches_is_chosen() -> None:
    for b in range(3):
        assert choice([vector(b)], router_queries=1) == [[b]]


def test_only_the_last_queries_choose() -> None:
    assert choice([vector(0), SILENT, SILENT], top_k=1) != [[0]]
    assert choice([vector(0), SILENT], top_k=1) == [[0]]
    assert choice([vector(0), vector(1), vector(1)], router_queries=3) == [[1]]
    assert choice([vector(0), vector(0), vector(1)], router_queries=3) == [[0]]
    assert choice([vector(0), vector(0), vector(1)], router_queries=1) == [[1]]


def test_blocks_are_shown_in_their_order_whatever_their_mass() -> None:
    assert choice([vector(2), vector(0)], top_k=2) == [[0, 2]]
    assert choice([vector(1), vector(0)], top_k=2) == [[0, 1]]


def test_of_equal_blocks_the_most_recent_is_chosen() -> None:
    assert choice([SILENT, SILENT]) == [[2]]
    assert choice([vector(0, 1), vector(0, 1)]) == [[1]]  # both match alike
    assert choice([vector(0, 1)], top_k=2) == [[0, 1]]


def test_the_heads_of_a_group_choose_together_and_every_head_of_keys_for_itself() -> None:
    ask = [torch.cat([vector(a), vector(b), vector(c), vector(d)]) for a, b, c, d in [(0, 0, 2, 1), (0, 1, 1, 1)]]
    assert choice(ask, heads=4, kv_heads=2) == [[0], [1]]
    assert choice(ask, heads=4, kv_heads=1) == [[1]]  # 3 of 8 shares are block 0's, 4 are block 1's


def test_a_mean_of_a_sub_block_can_hide_a_key() -> None:
    """Two opposite keys: each is found by itself, their mean is 0."""
    cfg = config(**ONE | dict(segment=4, router_queries=1, route_every=1))
    opposite = [vector(0), -vector(0), vector(1), vector(1), *[vector(2, size=0.4)] * 4, vector(3), vector(3)]
    for router, want in (("subblock:1", 0), ("subblock:2", 1), ("subblock:4", 1), ("mean", 1)):
        row = BlocksRow(cfg | dict(router=router), {})
        feed(row, opposite, [*[SILENT] * 9, vector(0)])
        row.offer()
        row.renew()
        assert row.chosen == [[want]]


def test_a_mass_is_over_the_blocks_that_were_sealed_when_the_query_was_made() -> None:
    """A query gives a block that is sealed later nothing, though its key matches; one token later it does.

    Blocks of keys 1, 2 and 0 are sealed when tokens 2, 4 and 6 are read; the query matches 0 most and 1 a little.
    """
    keys = [vector(1), vector(1), vector(2), vector(2), vector(0), vector(0), vector(3)]
    query = vector(0) + vector(1, size=1.0)
    for at, shares, want in ((5, 2, 0), (6, 3, 2)):
        row = BlocksRow(config(**ONE | dict(router_queries=1, route_every=100)), {})
        feed(row, keys[: at + 1], [*[SILENT] * at, query])
        assert len(row.masses[0][0]) == shares and sum(row.masses[0][0]) == pytest.approx(1)
        asked = row.queries
        feed(row, keys[at + 1 :], [SILENT] * (6 - at))
        row.queries = asked
        row.offer()
        row.renew()
        assert row.offered == 3 and row.chosen == [[want]]


def test_a_choice_stays_until_the_position_is_divisible() -> None:
    row, seen = BlocksRow(cfg := config(route_every=5), layer_weights(cfg)), []
    for x_D in stream(60):
        row.step(x_D)
        seen.append((copy.deepcopy(row.chosen), row.offered))
    for t in range(1, 60):
        assert seen[t] == seen[t - 1] or t % 5 == 0
    assert len({str(chosen) for chosen, _ in seen}) > 6


def test_no_token_sees_a_later_one() -> None:
    """Gradients, and other futures: what is chosen depends on the past too."""
    cfg = config(sinks=2)
    w, x = layer_weights(cfg), stream(40)
    leaf = x.clone().requires_grad_()
    y = run(cfg, w, leaf)
    for t in (0, 5, 12, 13, 30):
        (grad,) = torch.autograd.grad(y[: t + 1].sum(), leaf, retain_graph=True)
        assert not grad[t + 1 :].any() and grad[t].any()
    for t in range(6, 40, 5):
        other = torch.cat([x[:t], 9 * stream(40 - t, seed=8)])
        assert torch.equal(run(cfg, w, other)[:t], y[:t].detach())


def test_forks_and_cuts_change_nothing() -> None:
    """A row is read a token at a time, so a call has no edge that could show; copies of it go on by themselves."""
    cfg = config(sinks=1, short_conv=3)
    w, x = layer_weights(cfg), stream(30)
    want = run(cfg, w, x)
    row = BlocksRow(cfg, w)
    for t, x_D in enumerate(x):
        fork = copy.deepcopy(row)
        for other in 5 * stream(4, seed=t):
            fork.step(other, cut=True)
        assert torch.equal(row.step(x_D, cut=t % 2 == 0), want[t])


def test_only_where_a_text_begins_modulo_the_renewals_matters() -> None:
    """Ten million tokens later, with all positions in the buffer, nothing else is."""
    cfg = config(route_every=5)
    w, x = layer_weights(cfg), stream(30)
    row = BlocksRow(cfg, w)
    for x_D in x[:15]:
        row.step(x_D)
    row.shift(10_000_000)
    far = torch.stack([row.step(x_D) for x_D in x[15:]])
    assert torch.equal(far, run(cfg, w, x)[15:])


def test_choosing_has_no_gradient_and_the_chosen_keys_have() -> None:
    cfg = config(top_k=1, route_every=1)
    w, x = layer_weights(cfg), stream(30).requires_grad_()
    row = BlocksRow(cfg, w)
    y = [row.step(x_D) for x_D in x][-1]
    (grad,) = torch.autograd.grad(y.sum(), x)
    shown = {4 * b + i for chosen in row.chosen for b in chosen for i in range(4)} | set(range(4 * row.offered, 30))
    assert grad.abs().amax(1).nonzero().flatten().tolist() == sorted(shown)
    assert 8 <= len(shown) < 30


def test_the_logarithm_of_nothing_is_never_taken() -> None:
    """Before the first block is sealed every mass is empty, and no output is NaN."""
    row = after(config(), 6)
    assert row.masses == [[[], []]] * 4 and row.chosen == [[], []]
    assert math.isfinite(float(run(config(), layer_weights(BLOCKS), stream(12)).abs().max()))


def test_over_budget_the_oldest_goes_and_is_not_seen_again() -> None:
    row = BlocksRow(config(**ONE | dict(router_queries=1, route_every=1, max_checkpoints=2)), {})
    feed(row, [vector(0), vector(0), vector(1), vector(1), vector(2), vector(2), vector(3)], [*[SILENT] * 6, vector(0)])
    row.offer()
    row.renew()
    assert sorted(row.held) == [1, 2] and row.chosen == [[2]]  # the query matches block 0, and neither of the others


def test_over_budget_the_least_used_goes_and_one_that_no_query_saw_stays() -> None:
    """Block 0 was asked for, block 1 was not, and block 2 is new when the third is one too many."""
    keys = dict(router_queries=1, route_every=1, max_checkpoints=2, evict="use")
    row = BlocksRow(config(**ONE | keys), {})
    feed(row, [vector(0), vector(0), vector(1), vector(1), vector(2), vector(2), vector(3)], [*[SILENT] * 3, *[vector(0)] * 4])
    row.offer()
    row.renew()
    assert sorted(row.held) == [0, 2] and row.used[0] > 4096 and row.asked[2] == 1


@pytest.mark.parametrize("kind,bits", [("bfloat16", 8), ("int8", 7)])
def test_blocks_are_rounded_and_near_tokens_are_not(kind: str, bits: int) -> None:
    cfg = config(checkpoint_dtype=kind)
    row = after(cfg, 30)
    for block, kept in zip(row.sealed, row.held.values(), strict=True):
        for (k, v), (rounded_k, rounded_v) in zip(block, kept, strict=True):
            for x, y in ((k, rounded_k), (v, rounded_v)):
                assert 0 < float((x - y).abs().max()) <= 2.0**-bits * float(x.abs().max())
    near = row.left + row.near
    shown = row.buffer(0)[-len(near) :]
    assert all(torch.equal(a, b) for x, y in zip(near, shown, strict=True) for a, b in zip(x, y, strict=True))
