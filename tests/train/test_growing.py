"""Models that grow: new layers without effect, at a learning rate of their own, that look things up; runs with a deadline."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from siltstone.config import registry
from siltstone.config.model import LMConfig
from siltstone.errors import ConfigError
from siltstone.layers.blocks import BlockAttention
from siltstone.models.checkpoint import load
from siltstone.models.lm import LM
from siltstone.train import Recipe, Trainer, begin, copying, fit, loop, take_up
from siltstone.train.starting import load_starting_weights, starting_weights
from tests.train.test_train_command import here
from tests.train.test_trainer import trainer

BASE = dict(d_model=48, heads=2, kv_heads=1, depth=2, mlp_dim=32, window=8, short_conv=2, qk_norm=True, memory="gated_delta")
BLOCKS = dict(cache="blocks", segments="constant", segment=8, top_k=64, router="subblock:2", position="none")
BLOCKS |= {"cache_options": dict(router_queries=4, route_every=8)}
FEW = Recipe(steps=4, batch=3, length=16, span=48, save_every=2)


def base(vocab: int, **keys: Any) -> LMConfig:
    return LMConfig.from_dict({**BASE, "pattern": "wm", "cache": "none", "vocab_size": vocab, **keys})


def grown(vocab: int, kind: str = "blocks") -> LMConfig:
    front = {"blocks": ("mwm", {"0": BLOCKS}), "memory": ("mwm", {}), "window": ("wwm", {}), "two": ("wmwm", {"1": BLOCKS})}
    pattern, layers = front[kind]
    return base(vocab, depth=len(pattern), pattern=pattern, layers=layers)


@pytest.fixture
def trained(tmp_path: Path, texts: Path) -> Path:
    fit(begin(tmp_path / "base", [texts], base, FEW))
    return tmp_path / "base"


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says how often it was read."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(time=itertools.count().__next__, monotonic=time.monotonic))


@pytest.mark.parametrize("norm", ["before", "after"])
@pytest.mark.parametrize("kind", ["blocks", "memory", "window", "two"])
def test_new_layers_in_front_begin_without_effect_and_can_learn(tmp_path: Path, texts: Path, kind: str, norm: str) -> None:
    fit(begin(tmp_path / "base", [texts], lambda vocab: base(vocab, norm=norm, mlp_bias=True, out_bias=True), FEW))
    old, tokenizer = load(tmp_path / "base")
    cfg = grown(old.cfg.vocab_size, kind).replace(norm=norm, mlp_bias=True, out_bias=True)
    init = starting_weights(tmp_path / "base", cfg, tokenizer, grow=True)
    assert init["grown"] == cfg.depth - 2
    model = LM(cfg)
    load_starting_weights(model, init)
    ids = torch.randint(0, 256, (2, 70), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(ids)[0], old(ids)[0], rtol=1e-5, atol=1e-5)
    model(ids)[0].logsumexp(-1).sum().backward()
    for block in list(model.blocks)[: init["grown"]]:
        assert cast(Any, block).mix.out.weight.grad.abs().max() > 0 and cast(Any, block).mlp.down.weight.grad.abs().max() > 0


def test_a_layer_of_blocks_begins_as_a_lookup_among_the_embeddings(trained: Path) -> None:
    old, tokenizer = load(trained)
    with torch.no_grad():  # embeddings with a common part, as trained ones have
        old.embed.weight.normal_(generator=torch.Generator().manual_seed(1)).add_(4.0)
    model, shares = LM(grown(old.cfg.vocab_size)), []
    for inputs in (None, cast(Any, model.blocks[0]).norm_mix(old.embed.weight.detach())):
        torch.manual_seed(0)
        mix = cast(BlockAttention, model.blocks[0].mix)
        mix.begin(inputs)
        ids = torch.randperm(256, generator=torch.Generator().manual_seed(2))[:80]
        x = cast(Any, model.blocks[0]).norm_mix(old.embed(torch.cat([ids, ids[:40]])))
        with torch.no_grad():
            moved = x.clone()
            moved[1:] += x[:-1] * cast(Any, mix.conv.taps)[1]
            asked = mix.window.project(moved[None])[0][0]
            q, k = asked[:, 0], asked[:, mix.cfg.heads]
            attended = (q[82:120] @ k[:80].T * mix.cfg.scale).softmax(-1)
        shares.append(attended[torch.arange(38), torch.arange(3, 41)].mean().item())  # what followed the token the first time
    assert shares[1] > 0.5 and shares[1] > 2 * shares[0]


def test_what_cannot_grow_is_refused(trained: Path, tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, tokenizer = load(trained)
    for cfg, said in (
        (old.cfg, "has 2 layers and this model 2; give it more"),
        (grown(old.cfg.vocab_size).replace(mlp_dim=64), "does not have this model's shapes"),
    ):
        with pytest.raises(ConfigError, match=said):
            starting_weights(trained, cfg, tokenizer, grow=True)
    with pytest.raises(ConfigError, match="or give --grow"):
        starting_weights(trained, grown(old.cfg.vocab_size), tokenizer)
    assert here(texts, "--out", tmp_path / "two", "--grow", "--steps", "1") == 2
    assert "--init is missing" in capsys.readouterr().err
    given = ["--init", trained, "--grow", "--grown-lr", "5", "--far", "96", "--set", "depth=3", "--set", "pattern=wwm"]
    assert here(texts, "--out", tmp_path / "two", *given, "--steps", "2", "--length", "16", "--quiet") == 0
    assert load(tmp_path / "two")[0].cfg.kinds[:2] == ["window", "window"]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_that_cannot_be(value: float) -> None:
    with pytest.raises(ConfigError, match="grown_lr="):
        Recipe(steps=1, grown_lr=value)


def test_new_layers_have_a_learning_rate_of_their_own(trained: Path, texts: Path, tmp_path: Path) -> None:
    recipe = Recipe(steps=8, batch=3, length=16, span=48, save_every=2, lr=1e-3, warmup=0.0, grown_lr=50.0, far=192, decay=0.0)
    run = begin(tmp_path / "grown", [texts], grown, recipe, init=trained, grow=True)
    model = LM(run.cfg)
    assert run.init is not None
    load_starting_weights(model, run.init)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    one = Trainer(model, run.train, recipe, 1)
    one.advance(0.0)
    moved = {name: (x - before[name]).abs().max().item() for name, x in model.state_dict().items()}
    assert moved["blocks.0.mix.out.weight"] == pytest.approx(0.05, rel=0.01)  # the first step of AdamW is as long as its rate
    assert moved["blocks.1.mix.out.weight"] == pytest.approx(0.001, rel=0.01)
    run.close()


def test_a_grown_run_that_stops_at_deadlines_ends_with_the_same_bits(
    trained: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(steps=6, batch=3, length=16, span=48, save_every=100, valid_every=3, valid_tokens=32, far=192)
    valid = [texts / "3.txt"]
    whole = fit(begin(tmp_path / "whole", [texts], grown, recipe, valid=valid, init=trained, grow=True))
    assert not whole["interrupted"]
    run, stops = begin(tmp_path / "parts", [texts], grown, recipe, valid=valid, init=trained, grow=True), 0
    torch.manual_seed(1)  # of no effect
    found = fit(run, deadline=0)
    assert (found["interrupted"], found["signal"], found["steps"]) == (True, None, 0)
    while found["interrupted"]:
        monkeypatch.setattr(loop, "time", SimpleNamespace(time=itertools.count().__next__, monotonic=time.monotonic))
        found, stops = fit(take_up(tmp_path / "parts", {}), deadline=7), stops + 1
        assert stops < 9
    assert stops > 1
    assert found["steps"] == 6 and found["fingerprint"] == whole["fingerprint"]
    assert found["valid_bits_per_byte"] == whole["valid_bits_per_byte"]


def test_far_rows_repeat_from_beyond_the_window_and_count_once_asked(tmp_path: Path) -> None:
    text = np.arange(5000) % 97
    for window, length in ((8, 96), (32, 96), (128, 384), (128, 1152)):
        ids, asked = copying.far_rows(text, 10**6, 6, length, window, np.random.default_rng(length))
        assert (ids[0][~asked[0]] > 96).any() and (ids[1] < 97).all() and (ids[2] < 97).all() and asked.any(1).all()
        for row, wanted in zip(ids[::3], asked[::3], strict=True):  # random ids: equal ones are repetitions
            for at in np.flatnonzero(wanted):
                same = np.flatnonzero(row[:at] == row[at])
                assert len(same) == 1 and at - same[0] > window and row[at - 1] == row[same[0] - 1]


def test_far_rows_are_a_part_of_each_step(tmp_path: Path) -> None:
    plain, far = trainer(tmp_path), trainer(tmp_path, far=192)
    one, two = plain.advance(0.1), far.advance(0.1)
    assert one["loss"] == two["loss"] and one["grad_norm"] != two["grad_norm"] and plain.tokens == far.tokens


@pytest.mark.parametrize("cache", sorted(registry.members("cache")))
def test_a_run_with_any_cache_is_saved_and_resumed_in_the_middle_of_a_text(
    tmp_path: Path, texts: Path, ticks: None, cache: str
) -> None:
    def configured(vocab: int) -> LMConfig:
        more = {} if cache in ("none", "exact") else {"segment": 8, "segments": "constant"}
        return base(vocab, cache=cache, **more)

    whole = fit(begin(tmp_path / "whole", [texts], configured, replace(FEW, steps=5)))
    assert fit(begin(tmp_path / "parts", [texts], configured, replace(FEW, steps=5)), deadline=3)["steps"] == 3
    assert fit(take_up(tmp_path / "parts", {}))["fingerprint"] == whole["fingerprint"]
