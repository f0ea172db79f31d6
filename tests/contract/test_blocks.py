"""cache="blocks": the oracle's logits and gradients, whatever the calls, rows and steps that read a text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.layers import blocks_choice
from siltstone.models.stream_state import LMState

from ..oracle import blocks as oracle_blocks
from ..oracle import lm as oracle_lm
from .common import PAD, Batch, close, differ, feed, generic, gradients, named, randn, weights
from .models import VOCAB, same_bits, through_bytes

LENGTH = 40
IDS = torch.randint(0, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(3))
PROBE = randn(LENGTH, VOCAB, seed=2)
EDGES = ([0, 9, 9, 10], [15, 16, 17], [1, 2, 3, 21, 33], range(1, LENGTH))
AGES = (0, 1, 4, 9, 14, 23, 30)


STAGES = ("coarse", "coarse_from", "candidates", "exact", "votes")


def config(router_queries: int = 2, route_every: int = 3, **keys: Any) -> dict[str, Any]:
    """The keys of a model with one block."""
    more = {key: keys.pop(key) for key in STAGES if key in keys}
    return dict(
        d_model=8, heads=2, head_dim=4, window=3, sinks=0, position="rope",
        cache="blocks", segment=4, router="subblock:2", top_k=2,
        cache_options=dict(router_queries=router_queries, route_every=route_every) | more,
        vocab_size=VOCAB, depth=1, pattern="m", mlp="gelu", mlp_dim=8, tie=True, norm_eps=1e-6,
    ) | keys  # fmt: skip


def coarse(tokens: int, since: int, candidates: int) -> dict[str, Any]:
    """Options of a choice in two stages."""
    return dict(coarse=tokens, coarse_from=since, candidates=candidates)


CASES: dict[str, dict[str, Any]] = {
    "plain": config(),
    "every-token": config(1, 1),
    "four-queries": config(4, 5),
    "long-groups": config(3, 9),
    "aligned": config(4, 4, window=5),
    "sinks": config(sinks=2, kv_heads=1, window=5),
    "groups-of-heads": config(heads=4, head_dim=2, kv_heads=2, value_dim=3),
    "scaled": config(rope_theta=100.0, rope_scaling=dict(type="linear", factor=2.5)),
    "no-positions": config(position="none", sinks=3),
    "normed-and-convolved": config(2, 2, qk_norm=True, short_conv=3),
    "one-of-short-blocks": config(2, 4, segment=2, router="subblock:1", top_k=1, window=1),
    "sub-blocks-of-six": config(6, 2, segment=6, router="subblock:3", top_k=3),
    "whole-blocks": config(2, 4, router="mean", sinks=1),
    "three-layers": config(depth=3, pattern="mwm"),
    "three-held": config(2, 3, max_checkpoints=3, sinks=1),
    "fewer-held-than-chosen": config(2, 4, max_checkpoints=2, segment=2, top_k=3),
    "used-held": config(2, 3, max_checkpoints=3, evict="use", segment=2, router="subblock:1", heads=4, head_dim=2, kv_heads=2),
    "used-held-at-each-token": config(1, 1, max_checkpoints=4, evict="use", segment=2, sinks=2),
    "in-int8-used-held-of-long-groups": config(2, 9, max_checkpoints=6, evict="use", segment=2, checkpoint_dtype="int8"),
    "in-bfloat16-held": config(2, 4, max_checkpoints=4, segment=2, checkpoint_dtype="bfloat16"),
    "two-stages": config(2, 3, heads=4, head_dim=2, kv_heads=2, **coarse(4, 12, 3)),
    "two-stages-from-the-first": config(2, 4, sinks=1, top_k=1, **coarse(4, 0, 2)),
    "in-int8-two-stages-held": config(2, 5, router="subblock:1", max_checkpoints=6, checkpoint_dtype="int8", **coarse(2, 16, 3)),
    "by-keys": config(2, 3, router="mean", heads=4, head_dim=2, kv_heads=2, exact=3),
    "by-keys-but-for-two-stages": config(2, 4, router="subblock:2", top_k=1, exact=2, **coarse(4, 8, 2)),
    "votes": config(2, 3, depth=3, votes=2, heads=4, head_dim=2, kv_heads=2),
    "votes-of-two-layers": config(3, 4, depth=3, pattern="mwm", votes=1, router="mean", max_checkpoints=6),
    "votes-by-keys-but-for-two-stages": config(2, 3, depth=2, votes=1, top_k=1, exact=2, **coarse(4, 8, 2)),
    "in-int8-by-keys-held": config(2, 5, router="mean", max_checkpoints=6, checkpoint_dtype="int8", top_k=1, exact=3),
    "in-bfloat16": config(2, 4, sinks=1, checkpoint_dtype="bfloat16"),
    "in-int8": config(4, 3, heads=4, head_dim=2, kv_heads=2, value_dim=3, checkpoint_dtype="int8"),
    "in-int8-without-positions": config(position="none", checkpoint_dtype="int8", segment=2, top_k=3),
}
every_case = pytest.mark.parametrize("name", CASES)


def make(cfg: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return generic(st.LM(st.LMConfig.from_dict(cfg))).eval().requires_grad_(False)


@cache
def the_model(name: str) -> Any:
    return make(CASES[name])


def oracles(cfg: dict[str, Any], model: Any, ids: Tensor) -> Tensor:
    """The oracle's logits [T, vocabulary] of ids [T]."""
    return oracle_lm.run(keys(cfg), {n: p.detach() for n, p in weights(model).items()}, ids.tolist())


def keys(cfg: dict[str, Any]) -> dict[str, Any]:
    """With the keys that the oracle needs besides."""
    return dict(memory="linear", compress="identity", rate=1, write_delay="window", segments="constant") | cfg


@cache
def first(name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits [LENGTH, vocabulary] of the first text, and the gradients of sum(logits * PROBE)."""
    w = weights(the_model(name))
    y = oracle_lm.run(keys(CASES[name]), w, IDS[0].tolist())
    return y.detach(), dict(zip(w, torch.autograd.grad((y * PROBE).sum(), list(w.values())), strict=True))


@cache
def truth(name: str) -> Tensor:
    """[3, LENGTH, vocabulary]"""
    return torch.stack([first(name)[0], *[oracles(CASES[name], the_model(name), row) for row in IDS[1:]]])


@every_case
def test_the_case_has_a_choice(name: str) -> None:
    """With every block the logits are other ones, so that a wrong choice would show."""
    all_of_them = {key: value for key, value in CASES[name].items() if key not in ("max_checkpoints", "evict")}
    all_of_them["cache_options"] = {key: x for key, x in all_of_them["cache_options"].items() if key not in STAGES}
    assert differ(make(all_of_them | dict(top_k=20))(IDS)[0][:, 20:], truth(name)[:, 20:])


@every_case
def test_logits_and_gradients(name: str) -> None:
    """In one call, and through the state of three; not through rounded blocks of earlier calls."""
    model = make(CASES[name]).requires_grad_(True)
    for calls in ([], [13, 29]):
        y, state = feed(model, IDS[:1], None, calls)
        close(y[0], first(name)[0])
        _, grads = gradients((y[0] * PROBE).sum(), model.embed.weight, dict(model.named_parameters()))
        for at, want in first(name)[1].items() if not calls or "in-" not in name else ():
            close(grads[at], want, f"gradient of {at}")
        assert state.position.tolist() == [LENGTH]


@every_case
def test_every_split(name: str) -> None:
    for i, calls in enumerate(EDGES):
        y, _ = feed(the_model(name), IDS, None, calls, inplace=i % 2 == 0)
        close(y, truth(name), f"cut at {calls}")


@every_case
def test_padding_resets_and_rows(name: str) -> None:
    """Rows that begin anew, with padding left, right and inside, stand at different positions in every call."""
    batch = Batch.of(
        [*range(3), PAD, *range(3, 20), PAD, PAD, *range(20, 40), PAD],
        [*range(19), *range(23), PAD, *range(2)],
        [*[PAD] * 6, *range(38)],
        [],
        [*range(31), *[PAD] * 4, *range(31, 37)],
    )
    model, want = the_model(name), truth(name)[0]
    ids = batch.spread(IDS[0], 7)
    for calls in ([], [17, 18, 30], range(1, batch.width)):
        y, state = feed(model, ids, model.init_state(5), calls, mask=batch.mask, reset=batch.reset)
        close(y[batch.mask], batch.spread(want, 0.0)[batch.mask])
        assert y.isfinite().all()
        assert state.position.tolist() == [40, 2, 38, 0, 37]


def aged(name: str) -> LMState:
    """Rows that have read 0, 1, 4, ... tokens of the first text."""
    model = the_model(name)
    return LMState.cat([feed(model, IDS[:1, :age], model.init_state(1))[1] for age in AGES])


@every_case
def test_steps_at_mixed_ages(name: str) -> None:
    """Rows of all ages step, some of them inactive, and some tokens take the other way."""
    model, want, draw = the_model(name), truth(name)[0], random.Random(0)
    state = aged(name)
    for turn in range(20):
        at = state.position.tolist()
        active = torch.tensor([p < LENGTH and draw.random() < 0.8 for p in at])
        ids = torch.stack([IDS[0, min(p, LENGTH - 1)] for p in at])
        if turn % 7 == 3:
            y, state = model(ids[:, None], state, mask=active[:, None])
            y = y[:, 0]
        else:
            y, state = model.step(ids, state, active, inplace=turn % 2 == 0)
        for b, p in enumerate(at):
            if active[b]:
                close(y[b], want[p], f"turn {turn}, row {b}, position {p}")
        assert state.position.tolist() == [p + int(a) for p, a in zip(at, active, strict=True)]


@every_case
def test_calls_at_mixed_ages(name: str) -> None:
    """Nine tokens of each row at once: groups begin at another token in every row."""
    model, want = the_model(name), truth(name)[0]
    ids = torch.stack([IDS[0, age : age + 9] for age in AGES])
    y, state = model(ids, aged(name))
    close(y, torch.stack([want[age : age + 9] for age in AGES]))
    z, _ = model(IDS[0, [age + 9 for age in AGES]][:, None], state)
    close(z[:, 0], torch.stack([want[age + 9] for age in AGES]))


@every_case
def test_a_state_of_steps_is_one_of_calls(name: str) -> None:
    """Steps to the middle with a row that begins anew, then a call; a kept state is as it was, also written down."""
    model, want, middle, before = the_model(name), truth(name)[0], 32, None
    state = model.init_state(2)
    for p in range(middle):
        at = [p, p if p < 3 else p - 3]
        y, state = model.step(IDS[0, at], state, reset=torch.tensor([False, p == 3]))
        close(y, want[at], f"positions {at}")
        before = state if p == 20 else before
    assert before is not None
    rest = torch.stack([IDS[0, middle:], IDS[0, middle - 3 : -3]])
    wanted = torch.stack([want[middle:], want[middle - 3 : -3]])
    for kept in (state, through_bytes(model, state), state.fork()):
        close(model(rest, kept)[0], wanted, "a call after steps")
    same_bits(through_bytes(model, state), state)
    again, _ = model.step(IDS[0, [21, 18]], before)
    close(again, want[[21, 18]], "a state that was kept")


@every_case
def test_forks_rows_taken_apart_and_put_together(name: str) -> None:
    model, want = the_model(name), truth(name)
    _, state = feed(model, IDS[:, :15], None, [6])
    parts = state.fork().select([2, 0, 1, 2])
    feed(model, IDS.flip(1)[:, :9], state, [4], inplace=False)  # another future
    y, parts = feed(model, IDS[[2, 0, 1, 2], 15:22], parts, [1, 2, 6])
    close(y, want[[2, 0, 1, 2], 15:22])
    joined = LMState.cat([parts.select([1]), state.select([1])])
    y, joined = model(torch.stack([IDS[0, 22:30], IDS[1, 15:23]]), joined)
    close(y, torch.stack([want[0, 22:30], want[1, 15:23]]))


LAYER = ("d_model", "heads", "head_dim", "window", "sinks", "position", "cache", "segment", "router", "top_k", "cache_options")


@pytest.mark.parametrize("name", ["plain", "sinks", "no-positions"])
def test_the_layer_alone(name: str) -> None:
    """Without a model: outputs, gradients of inputs and weights, and nothing from the future."""
    cfg, x, probe = CASES[name], randn(LENGTH, 8, seed=5), randn(LENGTH, 8, seed=6)
    torch.manual_seed(0)
    layer = generic(st.MemoryCaching(**{key: cfg[key] for key in (*LAYER, "kv_heads") if key in cfg}))
    w, leaf = weights(layer), x.clone().requires_grad_()
    want = oracle_blocks.run(keys(cfg), w, leaf)
    dx, grads = gradients((want * probe).sum(), leaf, w)
    for calls in ([], [13, 29]):
        x = x.detach().requires_grad_()
        y, _ = feed(layer, x[None], None, calls)
        close(y[0], want)
        got, each = gradients((y[0] * probe).sum(), x, named(layer))
        close(got, dx, "gradient of x")
        for at, grad in grads.items():
            close(each[at], grad, f"gradient of {at}")
    for t in (5, 14, 15, 30):
        (grad,) = torch.autograd.grad(layer(x[None])[0][0, : t + 1].sum(), x)
        assert not grad[t + 1 :].any() and grad[t].any()


@every_case
def test_other_futures_have_the_same_past(name: str) -> None:
    model = the_model(name)
    for t in range(15, LENGTH, 4):
        other = torch.cat([IDS[:1, :t], (IDS[:1, t:] + 5) % VOCAB], 1)
        close(model(other)[0][0, :t], truth(name)[0, :t])


@pytest.mark.parametrize("every", [1, 3, 4, 32])
@pytest.mark.parametrize("sinks", [0, 2])
def test_a_choice_of_every_block_is_full_attention(every: int, sinks: int) -> None:
    """With rotations, and in steps too."""
    cfg = config(route_every=every, sinks=sinks, top_k=20)
    model = make(cfg)
    want = oracles(cfg | dict(pattern="a"), model, IDS[0])
    for calls in ([], [7, 20, 21], range(1, LENGTH)):
        close(feed(model, IDS[:1], None, calls)[0][0], want)
    few = make(cfg | dict(top_k=1))
    assert differ(few(IDS[:1])[0][0], want)


@pytest.mark.parametrize("calls", [[], [1, 60, 91], range(90, 110)], ids=["one", "four", "steps"])
def test_longer_texts_and_scores_in_pieces(calls: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """More groups than are scored at a time, of longer blocks; two rows of different lengths."""
    monkeypatch.setattr(blocks_choice, "SCORES", 1)
    cfg = config(7, 6, segment=8, router="subblock:2", top_k=3, window=9, sinks=2, kv_heads=1)
    model = make(cfg)
    ids = torch.randint(0, VOCAB, (2, 110), generator=torch.Generator().manual_seed(9))
    mask = torch.ones(2, 110, dtype=torch.bool)
    mask[1, :41] = False
    y, _ = feed(model, ids, None, calls, mask=mask)
    close(y[0], oracles(cfg, model, ids[0]))
    close(y[1, 41:], oracles(cfg, model, ids[1, 41:]))


PERMUTED = [0, 1, 2, 3, 3, 0, 1, 2, 2, 1, 3, 0, 1, 3, 0, 2, 0, 2, 3, 1, 3, 2, 1, 0, 1, 0, 2, 3, 2, 3, 0, 1] * 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_of_blocks_of_the_same_tokens_the_latest_is_chosen(dtype: torch.dtype) -> None:
    """Every block holds the same four tokens, in another order: their masses are equal but for rounding, in every split."""
    model = make(config(1, 4, window=2, segment=4, router="subblock:1", top_k=1)).to(dtype)
    ids = torch.tensor([PERMUTED])
    for calls in ([], range(1, 64), [21, 22, 40]):
        state, at = None, [0, *calls, 64]
        for a, b in zip(at[:-1], at[1:], strict=True):
            _, state = model(ids[:, a:b], state)
            sealed = ((b - 1) // 4 * 4 - 1) // 4  # at the last token whose choice was renewed, of blocks sealed by then
            if sealed > 0:
                assert state.layers[0].chosen.flatten().tolist() == [sealed - 1] * 2, f"cut at {calls}, after {b} tokens"


def test_no_choice_that_a_state_cannot_hold() -> None:
    """Blocks that are not sealed yet, and those out of order."""
    model = the_model("plain")
    _, state = model(IDS[:1])
    tensors, meta = state.tensors(), state.meta()
    model.load_state(tensors, meta)
    name = "layers.0.chosen"
    for blocks_chosen in ([4, 4], [5, 4], [-1, 4], [3, 10], [3, 2**40]):
        wrong = tensors[name].clone()
        wrong[0, 0] = torch.tensor(blocks_chosen)
        with pytest.raises(ValueError, match="does not hold what position"):
            model.load_state(tensors | {name: wrong}, meta)
