"""Beginning with the weights of another run, ends below the step reached, sinks, and labels of progress."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch

from siltstone.errors import ConfigError
from siltstone.models.checkpoint import load
from siltstone.train import Recipe, begin, fit, take_up
from siltstone.train.report import Display
from siltstone.train.sinks import check_sinks, figures
from tests.train.conftest import configure
from tests.train.test_train_command import QUICK, SETTINGS, here

FEW = Recipe(steps=4, batch=3, length=16, span=48, save_every=2)


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert here(texts, "--out", one, "--steps", "3", *QUICK) == 0
    begun = ["--out", two, "--init", one, "--batch", "3", "--length", "16", "--span", "48", "--threads", "1", "--quiet"]
    assert here(texts, *begun, "--steps", "1", "--lr", "1e-30", "--decay", "0") == 0
    (first, _), (second, _) = load(one), load(two)
    assert first.cfg == second.cfg
    for name, x in first.state_dict().items():
        torch.testing.assert_close(x, second.state_dict()[name], rtol=0, atol=1e-12)
    assert json.loads((two / "train.json").read_text())["init"]["folder"] == str(one)
    capsys.readouterr()
    assert here("--resume", *begun, "--steps", "2") == 0
    assert here("--resume", "--out", two, "--init", tmp_path) == 2
    assert "cannot change in a resumed run" in capsys.readouterr().err
    assert here(texts, "--out", tmp_path / "three", "--init", one, "--set", "d_model=32", "--steps", "1") == 2
    assert "does not have this model's shapes" in capsys.readouterr().err
    assert not (tmp_path / "three/train.json").exists()
    assert here(texts, "--out", tmp_path / "three", "--init", one, "--tokenizer", "bpe:300", "--steps", "1") == 2
    assert "has another tokenizer" in capsys.readouterr().err
    assert here(texts, "--out", tmp_path / "three", "--init", tmp_path / "none", "--steps", "1", *SETTINGS) == 2


def test_weights_that_changed_before_the_first_checkpoint(tmp_path: Path, texts: Path) -> None:
    fit(begin(tmp_path / "one", [texts], configure, FEW))
    begin(tmp_path / "two", [texts], configure, FEW, init=tmp_path / "one").close()  # killed before its first checkpoint
    fit(take_up(tmp_path / "one", {"steps": 5}))
    with pytest.raises(Exception, match="has other weights than when the run was begun"):
        fit(take_up(tmp_path / "two", {}))


@pytest.mark.parametrize(
    "change, said", [({"steps": 3}, "steps=3 is below step 4"), ({"minutes": 1e-9}, "minutes=1e-09 is below")]
)
def test_an_end_below_the_step_reached(tmp_path: Path, texts: Path, change: dict, said: str) -> None:
    fit(begin(tmp_path, [texts], configure, FEW))
    record = (tmp_path / "train.json").read_bytes()
    with pytest.raises(ConfigError, match=said):
        take_up(tmp_path, change)
    assert (tmp_path / "train.json").read_bytes() == record
    assert fit(take_up(tmp_path, {"steps": 4}))["steps"] == 4


def test_figures_go_to_sinks(tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list = []
    trackio = types.SimpleNamespace(
        init=lambda **k: seen.append(k), log=lambda found, step: seen.append((step, found)), finish=lambda: seen.append("end")
    )
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    check_sinks(["trackio"])
    fit(begin(tmp_path / "mine", [texts], configure, FEW), sinks=["trackio"])
    assert (seen[0]["name"], seen[0]["resume"], seen[-1]) == ("mine", "never", "end")
    assert [step for step, _ in seen[1:-1]] == [1, 2, 3, 4] and all("train/loss" in found for _, found in seen[1:-1])
    points: list = []
    board = types.SimpleNamespace(
        add_scalar=lambda key, value, step: points.append((key, step)), close=lambda: points.append("end")
    )
    made = types.SimpleNamespace(SummaryWriter=lambda folder, purge_step: points.append((folder, purge_step)) or board)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", made)
    fit(take_up(tmp_path / "mine", {"steps": 5}), sinks=["tensorboard"])
    assert points[0] == (str(tmp_path / "mine/tensorboard"), 5) and ("train/loss", 5) in points and points[-1] == "end"
    assert figures({"step": 1, "valid_bits_per_byte": 2.0}) == {"valid/bits_per_byte": 2.0}


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_sink_whose_package_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("trackio", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"--log {name} needs the package .*siltstone\[log\]"):
        check_sinks([name])
    with pytest.raises(ConfigError, match="log='wandb' is not known"):
        check_sinks(["wandb"])


def test_progress_has_labels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siltstone.train.report._PAUSE", -1.0)
    Display(end=1000).show(0.25, {"step": 250, "loss": 2.0, "tokens_per_s": 1234.5, "state_bytes": 2000}, 1.5)
    said = " ".join(capsys.readouterr().err.split())
    assert said == "25% step 250 of 1,000 loss 2.000 nats a token train 1.500 bits/byte 1,234 tokens/s state 2.0 KB a row"


def test_progress_says_that_no_text_was_read_yet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siltstone.train.report._PAUSE", -1.0)
    record = {"step": 3, "loss": 6.5, "bits_per_byte": 0.0, "bytes": 0, "tokens_per_s": 1234.5, "state_bytes": 0}
    Display(end=10, name="gated, seed 1").show(0.3, record, 0.0)
    said = " ".join(capsys.readouterr().err.split())
    assert said == "30% gated, seed 1 step 3 of 10 loss 6.500 nats a token of repeated strings, no text yet 1,234 tokens/s"
    assert "train/bits_per_byte" not in figures(record) and figures(record)["train/loss"] == 6.5
    assert figures(record | {"bytes": 9, "bits_per_byte": 2.0})["train/bits_per_byte"] == 2.0
