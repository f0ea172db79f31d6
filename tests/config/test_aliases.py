"""Older names of keys still work, with a warning, and what was written under them loads and has the same fingerprints."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import siltstone as st
from siltstone.config import aliases
from siltstone.config.aliases import Alias
from siltstone.errors import ConfigError, RenamedKeyWarning
from siltstone.models.checkpoint import model_fingerprint
from siltstone.models.fingerprint import config_text

BEFORE = Path(__file__).parent / "before"
TEXTS = json.loads((BEFORE / "texts.json").read_text("utf-8"))
BASE: dict[str, Any] = {"vocab_size": 16, "d_model": 8, "heads": 2, "depth": 2, "window": 4, "segment": 8}


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "_told", set())


def test_the_older_name_warns_once_and_means_the_same() -> None:
    with pytest.warns(RenamedKeyWarning, match="memory_options 'rate' is now named 'inner_lr'") as told:
        cfg = st.presets.nano(16, memory="deep", memory_options={"rate": 0.25})
        st.presets.nano(16, memory="titans", memory_options={"rate": 0.25})
    assert len(told) == 1 and told[0].filename == __file__ and issubclass(RenamedKeyWarning, DeprecationWarning)
    new = st.presets.nano(16, memory="deep", memory_options={"inner_lr": 0.25})
    assert cfg == new and cfg.to_dict() == new.to_dict() and cfg.fingerprint == new.fingerprint
    assert cfg.layer.members.memory.options.inner_lr == 0.25 and cfg.to_dict()["memory_options"] == {"inner_lr": 0.25}


def test_a_layer_and_a_block_take_the_older_name() -> None:
    with pytest.warns(RenamedKeyWarning):
        layer = st.MemoryCaching(8, heads=2, memory="titans", memory_options={"rate": 0.25})
    assert layer.cfg.memory_options == {"inner_lr": 0.25}
    cfg = st.LMConfig.from_dict(BASE | {"layers": {"1": {"memory": "deep", "memory_options": {"rate": 0.25}}}})
    assert cfg.layers == {"1": {"memory": "deep", "memory_options": {"inner_lr": 0.25}}}


def test_both_names_are_too_many() -> None:
    with pytest.raises(ConfigError, match="'rate' is an older name of 'inner_lr', and both are given"):
        st.presets.nano(16, memory="deep", memory_options={"rate": 0.25, "inner_lr": 0.5})


def test_only_those_members_have_the_older_name() -> None:
    with pytest.raises(ConfigError, match="memory_options has no key 'rate' for memory='slots'"):
        st.presets.nano(16, memory="slots", memory_options={"rate": 0.25})


@pytest.mark.parametrize("found", TEXTS["configurations"])
def test_configurations_are_known_by_what_they_were_known_by(found: dict[str, Any]) -> None:
    assert config_text(st.LMConfig.from_dict(found["keys"], stored=True)) == found["text"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedKeyWarning)
        cfg = st.LMConfig.from_dict(found["keys"])
    assert config_text(st.LMConfig.from_dict(cfg.to_dict())) == found["text"]


def test_folders_sessions_and_states_of_before_load_in_silence() -> None:
    model, tok = st.load(BEFORE / "run")
    assert (
        model.cfg.layer.memory_options == {"inner_lr": 0.25, "expansion": 1} and model_fingerprint(model) == TEXTS["fingerprint"]
    )
    assert model.cfg.layer_configs[1].members.memory.options.inner_lr == 0.05
    session = st.Session.load(BEFORE / "session.silt", model, tok)
    assert session.position == 35 and session.counters.recomputed == 0
    state = model.load_state(load_file(BEFORE / "state.safetensors"), json.loads((BEFORE / "state.json").read_text("utf-8")))
    assert state.position.tolist() == [30]


def test_the_model_that_ships_has_the_fingerprint_it_had() -> None:
    model, _ = st.load(st.demo_run())
    assert model_fingerprint(model) == "b9facd4c7867be8e23faa524859991603a89200f387a31212c5a17fe5818a703"


def test_a_key_of_layers_and_one_of_models_may_be_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is all that a renaming needs."""
    monkeypatch.setattr(aliases, "ALIASES", (*aliases.ALIASES, Alias("sees", "window"), Alias("blocks", "depth")))
    old = {key: value for key, value in BASE.items() if key not in ("window", "depth")} | {"sees": 4, "blocks": 2}
    with pytest.warns(RenamedKeyWarning) as told:
        cfg = st.LMConfig.from_dict(old | {"layers": {"0": {"sees": 6}}})
    assert {str(x.message).partition(" is now")[0] for x in told} == {"key 'sees'", "key 'blocks'"}
    assert cfg == st.LMConfig.from_dict(BASE | {"layers": {"0": {"window": 6}}}) and cfg.layer_configs[0].window == 6
    assert json.loads(cfg.fingerprint)["sees"] == 4 and json.loads(cfg.fingerprint)["layers"] == {"0": {"sees": 6}}
    assert st.MemoryCaching(8, heads=2, sees=6).cfg.window == 6
