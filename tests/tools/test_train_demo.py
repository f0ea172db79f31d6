"""The command that trains the model that looks things up and its twins, at toy size."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from siltstone.errors import ConfigError
from siltstone.eval.arms import parameters
from siltstone.models.checkpoint import load, read
from siltstone.train import loop
from tests.train.conftest import write_texts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def train_demo(tool: Any) -> Any:
    return tool("train_demo")


def test_the_configurations_are_those_of_the_model_that_is_here_and_of_twins_as_large(train_demo: Any) -> None:
    size = train_demo.SIZES["full"]
    found = {name: train_demo.configured(size, name, "tuned", 2048) for name in train_demo.MODELS}
    keys = read(ROOT / "models/lookup")[0].to_dict()
    assert keys["layers"]["0"].pop("cache_options") == train_demo.FINE
    made = found["lookup"].to_dict()
    assert made["layers"]["0"].pop("cache_options") == {"router_queries": 8, "route_every": 16} and made == keys
    counts = {name: parameters(cfg) for name, cfg in found.items()}
    assert max(counts.values()) < 1.001 * min(counts.values())
    assert set(found["window"].kinds) == {"window"} and "blocks" not in {x.cache for x in found["recurrence"].layer_configs}
    for name in ("recurrence", "window"):
        assert train_demo.configured(size, name, "base", 2048) == found[name]


def test_a_run_in_slices_ends_with_the_bits_of_a_whole_one(
    train_demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(write_texts(tmp_path / "texts", (2500, 2500))), "--size", "toy", "--steps", "5", "2", "--device", "cpu"]
    given += ["--threads", "1", "--folder"]
    assert train_demo.main([*given, str(tmp_path / "whole")]) == 0
    slices = 0
    while True:
        clock = SimpleNamespace(time=itertools.count().__next__, monotonic=time.monotonic)
        monkeypatch.setattr(loop, "time", clock)
        monkeypatch.setattr(train_demo, "time", clock)
        code = train_demo.main([*given, str(tmp_path / "parts"), "--slice", "0.1"])  # a clock that counts how often it is read
        slices += 1
        if code != train_demo.UNFINISHED:
            break
        assert slices < 20
    assert code == 0 and slices > 3 and "is kept" in capsys.readouterr().out
    results = [json.loads((tmp_path / folder / "result.json").read_text()) for folder in ("whole", "parts")]
    assert results[0]["plan"] == results[1]["plan"] == {"base": 5, "tuned": 2}
    assert len({str(one["tokens"]) for one in results[1]["models"].values()}) == 1
    for name in train_demo.MODELS:
        one, two = (tmp_path / folder / "models" / name for folder in ("whole", "parts"))
        assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    model = load(tmp_path / "parts/models/lookup")[0]
    assert model.cfg.layer_configs[0].cache == "blocks" and model.cfg.to_dict()["layers"]["0"]["cache_options"] == train_demo.FINE
    with pytest.raises(ConfigError, match="give another --folder"):
        train_demo.main([*given, str(tmp_path / "parts"), "--seed", "1"])


def test_the_steps_that_fit_in_the_minutes_are_planned_once(
    train_demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_demo, "seconds_of", lambda size, stage, *_: {"base": 0.5, "tuned": 0.25}[stage])
    given = [str(write_texts(tmp_path / "texts", (900,))), "--size", "toy", "--folder", str(tmp_path), "--slice", "0"]
    before = torch.get_num_threads()
    for _ in range(2):
        assert train_demo.main([*given, "--minutes", "2"]) == train_demo.UNFINISHED
        assert json.loads((tmp_path / "plan.json").read_text())["steps"] == {"base": 180, "tuned": 120}
        monkeypatch.setattr(train_demo, "seconds_of", lambda *_: 1 / 0)
    torch.set_num_threads(before)
    with pytest.raises(ConfigError, match="must be above 0"):
        train_demo.main([*given, "--minutes", "0"])


@pytest.mark.parametrize("stage", ["base", "tuned"])
def test_a_step_is_timed(train_demo: Any, tmp_path: Path, stage: str) -> None:
    files, tokenizer = train_demo.texts(300, tmp_path, [str(write_texts(tmp_path / "texts", (900,)))], 0)
    corpus = train_demo.build_corpus(train_demo.hashed_files(files), tokenizer, tmp_path / "data")
    assert 0 < train_demo.seconds_of(train_demo.SIZES["toy"], stage, corpus, tokenizer, "cpu") < 60
