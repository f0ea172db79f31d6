"""Aids of training: what each computes, by another way; that trainings use them; and that models are left as they were."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import ConfigError
from siltstone.eval.arms import build, configured
from siltstone.layers import reading
from siltstone.ops.bank_read import by_segment_chunk
from siltstone.text import ByteTokenizer
from siltstone.train.aids import Aids, read_at, width_at
from siltstone.train.corpus import Corpus, build_corpus, hashed_files
from siltstone.train.lab import chosen_arms, smoke
from siltstone.train.recipe import Recipe
from siltstone.train.token_trainer import TokenTrainer
from siltstone.train.trainer import Trainer

KEYS: dict[str, Any] = dict(
    vocab_size=300, d_model=32, heads=2, depth=2, mlp_dim=48, window=8, segment=8, segments="constant", cache="sparse", top_k=2
)
IDS = torch.randint(300, (2, 96), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def corpus(texts: Path, tmp_path: Path) -> Corpus:
    return build_corpus(hashed_files([texts]), ByteTokenizer(), tmp_path / "data")


def model(**keys: Any) -> Any:
    torch.manual_seed(1)
    return st.LM(st.LMConfig.from_dict(KEYS | keys))


def test_all_are_read_first_and_then_fewer_by_equal_factors() -> None:
    recipe = Recipe(steps=1, dense=0.25)
    assert [read_at(recipe, x, 4, 64) for x in (0.0, 0.24, 0.25, 0.375, 0.499, 0.5, 1.0)] == [64, 64, 64, 16, 4, 4, 4]
    assert read_at(recipe, 0.0, 4, 3) == 4 and read_at(Recipe(steps=1), 0.0, 4, 64) == 4


@pytest.mark.parametrize("keys", [{}, {"gate": "softmax"}, {"memory": "titans"}, {"router": "subblock:2"}])
def test_a_dense_step_is_that_of_the_gated_cache(keys: dict[str, Any]) -> None:
    one, every = model(**keys), model(**keys, cache="gated", top_k=4)
    every.load_state_dict(one.state_dict())
    aids = Aids(one, Recipe(steps=1, dense=0.5), 0)
    with torch.no_grad():
        before, wanted = one(IDS)[0], every(IDS)[0]
        with aids.step(0, 0.0, 96):
            dense = one(IDS)[0]
        with aids.step(0, 0.99, 96):
            late = one(IDS)[0]
        after = one(IDS)[0]
    assert torch.allclose(dense, wanted, atol=1e-5) and not torch.allclose(before, wanted, atol=1e-3)
    assert torch.equal(late, before) and torch.equal(after, before)


@pytest.mark.parametrize("keys", [{}, {"gate": "softmax"}, {"router": "subblock:2"}, {"memory": "gated_delta"}])
def test_the_routing_loss_ranks_checkpoints_by_what_is_read_of_them(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each query, head and checkpoint by itself, from the queries, matrices and gates of the read."""
    one, read = model(**keys, depth=1), []

    def noted(z: torch.Tensor, matrices: torch.Tensor, gates: torch.Tensor, widths: list[int]) -> torch.Tensor:
        read.append([x.detach() for x in (z, matrices, gates)])
        return by_segment_chunk(z, matrices, gates, widths)

    monkeypatch.setattr(reading, "by_segment_chunk", noted)
    aids = Aids(one, Recipe(steps=1, dense=0.5, routing_loss=0.5), 0)
    with aids.step(0, 0.0, 96):
        one(IDS)
    found = aids.loss()
    ((z, matrices, gates),) = read
    runs, chunks, heads, queries, number = gates.shape
    costs, weights = [], []
    for r, c, q in itertools.product(range(runs), range(chunks), range(queries)):
        seen = [n for n in range(number) if gates[r, c, :, q, n].sum() > 0]
        if len(seen) > 1:
            energy = [sum(float((z[r, c, h, q] @ matrices[r, h, n]).square().sum()) for h in range(heads)) for n in seen]
            shares = [each / sum(energy) for each in energy]
            gate = gates[r, c, :, q, seen].double()
            logit = (gate.log() if keys.get("gate") == "softmax" else gate.log() - (1 - gate).log()).mean(0)
            chance = logit.exp() / logit.exp().sum()
            costs.append(-sum(t * math.log(p) for t, p in zip(shares, chance.tolist(), strict=True)))
            weights.append(1 + sum(t * math.log(t) for t in shares) / math.log(len(seen)))
    want = sum(w * cost for w, cost in zip(weights, costs, strict=True)) / sum(weights)
    assert len(costs) > 100 and float(found.detach()) == pytest.approx(0.5 * want, rel=1e-3)
    found.backward()
    router = one.blocks[0].mix.router
    assert router.key.weight.grad.abs().sum() > 0 and router.query.weight.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for name, p in one.named_parameters() if ".qkv" in name or ".memory." in name)


def test_steps_that_teach_read_every_checkpoint() -> None:
    one, plain = model(), model()
    policy, recipe = one.blocks[0].mix.cache, Recipe(steps=1, dense=0.25, routing_loss=1.0)
    aids, taught = Aids(one, recipe, 0), []
    for number in range(8):
        with aids.step(number, 0.9, 96):
            taught.append((policy.reads, policy.observer is not None))
        assert policy.reads == 2 and policy.observer is None and not float(aids.loss())
    assert taught == [(12, True), (2, False)] * 4
    with torch.no_grad(), aids.step(1, 0.9, 96):
        assert torch.equal(one(IDS)[0], plain(IDS)[0])
    for keys in ({"segments": "logarithmic"}, {"max_checkpoints": 3}):
        with pytest.raises(ConfigError, match="routing_loss needs segments='constant' without a budget"):
            Aids(model(**keys), recipe, 0)
    assert not Aids(model(cache="gated", top_k=4), recipe, 0).sparse  # an arm beside sparse ones
    with pytest.raises(ConfigError, match="routing_loss needs a memory that is read by one matrix"):
        Aids(model(memory="titans"), recipe, 0)


def test_a_step_without_a_window_is_that_of_a_window_that_says_nothing() -> None:
    one, silent = model(), model()
    silent.load_state_dict(one.state_dict())
    with torch.no_grad():
        for block in silent.blocks:
            block.mix.window.qkv.weight[-32:] = 0.0  # the values
        aids = Aids(one, Recipe(steps=1, window_dropout=1.0), 0)
        wanted, before = silent(IDS)[0], one(IDS)[0]
        with aids.step(0, 0.0, 96):
            found = one(IDS)[0]
        assert torch.allclose(found, wanted, atol=1e-6) and torch.equal(one(IDS)[0], before)


def test_steps_without_a_window_are_drawn_by_seed() -> None:
    one = model()
    shares = []
    for seed in (0, 1):
        aids, drawn = Aids(one, Recipe(steps=1, window_dropout=0.3), seed), []
        for number in range(200):
            with aids.step(number, 0.0, 96):
                drawn.append(one.blocks[0].mix.blind)
        shares.append(drawn)
    assert shares[0] != shares[1] and all(40 < sum(drawn) < 80 for drawn in shares)
    keeps = Aids(model(cache="exact", top_k=4), Recipe(steps=1, window_dropout=1.0), 0)  # its window says what is kept
    assert not keeps.windows


@pytest.mark.parametrize("keys", [{}, {"position": "alibi"}, {"memory": "deep", "pattern": "mw"}])
def test_a_step_with_a_narrow_window_is_that_of_a_model_with_it(keys: dict[str, Any]) -> None:
    """Tokens are written at once here, so that the width alone differs; layers without a memory keep theirs."""
    recipe = Recipe(steps=1, random_windows=1.0)
    for number in range(3):
        width = width_at(recipe, 0, number, 8)
        assert width is not None and 1 <= width < 8
        one = model(**keys, write_delay=0)
        layers = {"1": {"window": 8}} if "pattern" in keys else {}
        twin = model(**keys, write_delay=0, window=width, layers=layers)
        twin.load_state_dict(one.state_dict())
        aids = Aids(one, recipe, 0)
        with torch.no_grad():
            before = one(IDS)[0]
            with aids.step(number, 0.0, 96):
                found = one(IDS)[0]
            assert torch.allclose(found, twin(IDS)[0], atol=1e-5)
            assert not torch.allclose(found, before, atol=1e-3) and torch.equal(one(IDS)[0], before)


def test_widths_are_drawn_by_seed_on_every_scale() -> None:
    recipe = Recipe(steps=1, random_windows=0.5)
    drawn = [width_at(recipe, 0, number, 64) for number in range(400)]
    some = [x for x in drawn if x is not None]
    assert drawn != [width_at(recipe, 1, number, 64) for number in range(400)] and 160 < len(some) < 240
    assert min(some) == 1 and max(some) < 64
    for scale in (1, 4, 16):  # a third each
        assert 0.2 < sum(scale <= x < 4 * scale for x in some) / len(some) < 0.47
    assert width_at(Recipe(steps=1), 0, 0, 64) is None and width_at(recipe, 0, 0, 1) is None


@pytest.mark.parametrize("key, value", [("dense", 0.4), ("routing_loss", 1.0), ("window_dropout", 0.5), ("random_windows", 0.5)])
def test_both_trainings_use_them(key: str, value: float, corpus: Corpus) -> None:
    lab = dataclasses.replace(
        smoke(), base=smoke().base | {"window": 4, "segment": 4, "cache": "sparse", "top_k": 2}, train=(32,)
    )
    arm = chosen_arms(lab)["sparse"]

    def tokens(recipe: Recipe) -> list[float]:
        trainer = TokenTrainer(build(configured(lab.config(), arm, 32), arm, 0), lab.made(), recipe, lab.train, 0)
        return [trainer.advance(step / 6) for step in range(6)]

    def texts(recipe: Recipe) -> list[float]:
        trainer = Trainer(model(), corpus, recipe)
        return [trainer.advance(step / 6)["loss"] for step in range(6)]

    recipe = Recipe(steps=6, batch=4, length=64)
    for trained in (tokens, texts):
        more = {key: value} | ({"dense": 0.4} if key == "routing_loss" else {})
        assert trained(dataclasses.replace(recipe, **(more | {key: 0.0}))) != trained(dataclasses.replace(recipe, **more))


def test_settings_that_cannot_be() -> None:
    two: Any = 2
    for key in ("dense", "window_dropout", "random_windows"):
        with pytest.raises(ConfigError, match=f"{key}=2 must be a share"):
            dataclasses.replace(Recipe(steps=1), **{key: two})
    with pytest.raises(ConfigError, match="routing_loss=-1 must be at least 0"):
        Recipe(steps=1, routing_loss=-1)
    with pytest.raises(ConfigError, match="dense=0 has none"):
        Recipe(steps=1, routing_loss=1)
    with pytest.raises(ConfigError, match="routing_loss needs the activations of all segments"):
        Recipe(steps=1, dense=0.4, routing_loss=1, recompute="segment")
    assert dataclasses.replace(smoke(), recipe=Recipe(steps=4, batch=4, save_every=2)).key == smoke().key
    assert dataclasses.replace(smoke(), recipe=Recipe(steps=4, batch=4, save_every=2, dense=0.1)).key != smoke().key
