"""Configurations that cannot work are refused, with the argument, what was given, and the mend."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import siltstone as st
from siltstone.cli.app import app
from siltstone.config import registry
from siltstone.config.layer import LayerConfig
from siltstone.config.model import LMConfig
from siltstone.config.setting import parse_setting
from siltstone.errors import ConfigError, InputError

BASE: dict[str, Any] = {"vocab_size": 16, "d_model": 8, "heads": 2, "depth": 2, "window": 4, "segment": 8}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"windw": 4}, ["'windw'", "did you mean 'window'"]),
        ({"zebra": 4}, ["'zebra'", "the keys are"]),
        ({"window": 0}, ["window=0", "write_delay=0"]),
        ({"window": 0, "write_delay": 0, "sinks": 1}, ["sinks=1", "sinks=0"]),
        ({"window": 0, "write_delay": 0, "pattern": "mw"}, ["window=0", "pattern"]),
        ({"window": -1}, ["window=-1", "at least 0"]),
        ({"negative": True}, ["memory='delta' and memory='gated_delta'", 'memory_options={"negative": true}']),
        ({"writes": 8}, ["'writes'", "cache='exact'", 'cache_options={"writes": 8}']),
        ({"pattern": "mmma"}, ["'mmma'", "depth=2", "depth=4"]),
        ({"layers": {"0": {"mlp_dim": 64}}}, ["layers['0']", "all blocks share it", "beside `layers`"]),
        ({"compress": "mean", "rate": 4, "compress_every": 8, "segment": 252}, ["segment=248", "compress_every=4"]),
        ({"d_model": 70, "heads": 3}, ["heads=3", "head_dim=22", "heads=5"]),
        ({"window": 10**18}, [f"window={10**18}", "at most 1,048,576"]),
        ({"segment": 10**30}, ["segment=1000", "at most 1,099,511,627,776"]),
        ({"router_dim": 10**9}, ["router_dim=1000000000", "at most 65,536"]),
        ({"vocab_size": 10**12}, ["vocab_size=1000000000000", "at most 1,048,576"]),
        ({"cache": "exact", "cache_options": {"writes": 10**30}}, ["cache_options writes=1000", "at most 1,048,576"]),
        ({"write_delay": 0.0}, ["write_delay=0.0", "'window' or 0"]),
        ({"router": "subblock:\u0664"}, ["router='subblock:", "subblock:8"]),
        ({"max_checkpoints": 2, "cache": "residual", "evict": "use"}, ["evict='use'", "cache='residual'", "cache='gated'"]),
        ({"max_checkpoints": 2, "cache": "residul"}, ["cache='residul'", "did you mean 'residual'"]),
        ({"memory": "deep", "memory_options": {"inner_lr": float("inf")}}, ["inner_lr=inf", "finite", "0.5"]),
        ({"heads": 5}, ["d_model=8", "heads=5", "heads=4", "head_dim=2"]),
        ({"write_delay": 3}, ["write_delay=3", "'window' or 0"]),
        ({"compress": "mean", "rate": 3}, ["segment=8", "rate=3", "segment=6"]),
        ({"compress": "mean", "rate": 8, "write_delay": 0}, ["write_delay=0", "window >= 7"]),
        ({"compress": "identity", "rate": 2}, ["identity", "rate=2", "mean"]),
        ({"heads": 3}, ["d_model=8", "heads=3", "head_dim"]),
        ({"heads": 8}, ["head_dim=1", "even"]),
        ({"memory": "gatd"}, ["memory='gatd'", "did you mean 'gated'"]),
        ({"cache": "spars"}, ["cache='spars'", "sparse"]),
        ({"compress": "max"}, ["compress='max'", "identity"]),
        ({"compress": "attention", "rate": 2, "compress_options": {"queries": 3}}, ["queries=3", "d_model=8"]),
        ({"compress": "attention", "rate": 2, "compress_options": {"seeds": 3}}, ["'seeds'", "compress='attention'", "queries"]),
        ({"compress_options": [1]}, ["compress_options", "mapping"]),
        ({"cache": "sparse", "top_k": 0}, ["top_k=0", "at least 1"]),
        ({"memory": "deep", "value_dim": 6}, ["value_dim=6", "head_dim=4"]),
        ({"memory": "deep", "memory_options": {"inner_batch": 0}}, ["inner_batch=0"]),
        ({"memory": "deep", "memory_options": {"inner_lr": True}}, ["inner_lr=True", "above 0"]),
        ({"memory": "slots", "memory_options": {"number": 0}}, ["number=0", "from 1 to 4096"]),
        ({"memory": "slots", "memory_options": {"inner_batch": True}}, ["inner_batch=True", "whole number"]),
        ({"memory": "slots", "memory_options": {"gate": "fixed"}}, ["gate='fixed'", "'lstm' or 'gru'"]),
        ({"memory": "slots", "memory_options": {"gate": ["gru"]}}, ["gate=['gru']", "'lstm' or 'gru'"]),
        ({"memory": "slstm", "memory_options": {"number": 2}}, ["'number'", "memory='slstm'"]),
        ({"memory": "titans", "memory_options": {"limit": 0}}, ["limit=0", "above 0"]),
        ({"memory": "gated", "memory_options": {"expansion": 4}}, ["'expansion'", "'gated'", "decay"]),
        ({"memory": "gated", "memory_options": {"decay": "row"}}, ["decay='row'", "channel"]),
        (
            {"memory": "gated", "memory_options": {"decay": "channel"}, "compress_every": 33, "segment": 33},
            ["compress_every=33", "33 writes", "compress_every to at most 32", "decay='head'"],
        ),
        ({"memory": "linear", "memory_options": {"feature": "relu"}}, ["feature='relu'", "softmax"]),
        ({"memory": "linear", "memory_options": {"normalise": True}}, ["normalise=True", "feature='elu'"]),
        ({"memory": "delta", "memory_options": {"negative": 2}}, ["negative=2", "true or false"]),
        ({"memory": "mlstm", "cache": "soup"}, ["cache='soup'", "memory='mlstm'", "cache='gated'"]),
        ({"memory_options": [1]}, ["memory_options", "mapping"]),
        ({"segments": "fibonacci"}, ["segments='fibonacci'", "logarithmic"]),
        ({"segments": "contents"}, ["did you mean 'content'"]),
        ({"cut_at": ""}, ["cut_at=''", "null"]),
        ({"cut_at": 10}, ["cut_at=10", "text"]),
        ({"start": "resume"}, ["start='resume'", "restart"]),
        ({"gate": "relu"}, ["gate='relu'", "sigmoid"]),
        ({"position": "learned"}, ["position='learned'", "rope"]),
        ({"router": "max"}, ["router='max'", "mean"]),
        ({"mlp": "relu"}, ["mlp='relu'", "swiglu"]),
        ({"pattern": "mx"}, ["pattern='mx'", "letters"]),
        ({"pattern": "m,m,w"}, ["pattern='m,m,w'", "a (attention), with or without spaces"]),
        ({"router": "subblock:0"}, ["router='subblock:0'", "m must be at least 1 token"]),
        ({"memory_options": "channel"}, ["memory_options='channel'", 'for example memory_options={"decay": "head"}']),
        ({"memory": "swla", "memory_options": "x"}, ["memory_options='x'", "memory='swla' has none"]),
        ({"pattern": "mmm"}, ["pattern='mmm'", "depth=2"]),
        ({"depth": True}, ["depth=True", "whole number"]),
        ({"tie": "False"}, ["tie='False'", "true or false"]),
        ({"norm_eps": "x"}, ["norm_eps='x'", "1e-6"]),
        ({"memory": ["gated"]}, ["memory=['gated']", "choose one of"]),
        ({"name": "x"}, ["'name'", "not a key"]),
        ({"segment": 8.0}, ["segment=8.0", "whole number"]),
        ({"compress": "mean", "rate": 4, "compress_every": 6}, ["compress_every=6", "rate=4", "compress_every=8"]),
        ({"compress_every": 3}, ["segment=8", "compress_every=3", "segment=6"]),
        ({"memory": "deep", "memory_options": {"inner_batch": 3}, "compress_every": 2}, ["inner_batch=3", "2 writes an update"]),
        ({"router": "median"}, ["router='median'", "subblock:m"]),
        ({"router": "subblock:3"}, ["router='subblock:3'", "divide a segment (segment=8)"]),
        ({"router": "subblock:2", "rate": 4, "compress": "mean"}, ["sub-blocks of 2 tokens", "every 4 tokens"]),
        ({"temperature": 0}, ["temperature=0", "above 0"]),
        ({"gate_distance": "alibbi"}, ["gate_distance='alibbi'", "did you mean 'alibi'"]),
        ({"routing": "common"}, ["routing='common'", "shared"]),
        ({"max_checkpoints": 0}, ["max_checkpoints=0", "at least 1"]),
        ({"max_checkpoints": 4, "max_bytes": 10}, ["both given"]),
        ({"max_checkpoints": 4, "segments": "logarithmic"}, ["segments='constant'"]),
        ({"max_checkpoints": 4, "evict": "use", "cache": "residual"}, ["evict='use'", "cache='residual'"]),
        ({"max_checkpoints": 4, "evict": "use", "routing": "shared"}, ["evict='use'", "routing='own'"]),
        ({"max_checkpoints": 4, "evict": "merge", "memory": "mlstm"}, ["evict='merge'", "memory='mlstm'", "start='carry'"]),
        ({"max_checkpoints": 4, "cache": "none"}, ["cache='none' keeps none"]),
        ({"pattern": "mw", "layers": {"1": {"memory": "delta"}}}, ["layers['1'] sets memory", "window layer", "pattern"]),
        ({"checkpoint_dtype": "int4"}, ["checkpoint_dtype='int4'", "int8"]),
        ({"cache_options": {"k": 2}}, ["cache_options", "'k'"]),
        ({"cache": "exact", "cache_options": {"writes": 0}}, ["writes=0", "at least 1"]),
        ({"cache": "exact", "cache_options": {"writes": True}}, ["writes=True", "at least 1"]),
        ({"cache": "exact", "window": 0, "write_delay": 0}, ["cache='exact'", "window of at least 1", "cache='none'"]),
        ({"cache": "exact", "memory": "gru"}, ["cache='exact'", "memory='gru'", "memory='gated_delta'"]),
        ({"heads": 4, "kv_heads": 3}, ["kv_heads=3", "heads=4", "divisor"]),
        ({"kv_heads": 0}, ["kv_heads=0", "at least 1"]),
        ({"qk_norm": 1}, ["qk_norm=1", "true or false"]),
        ({"qk_norm": "heads"}, ["qk_norm='heads'", "'all'"]),
        ({"qk_norm": True, "qk_norm_eps": 1}, ["qk_norm_eps=1", "between 0 and 1"]),
        ({"qkv_bias": 1}, ["qkv_bias=1", "true or false"]),
        ({"norm": "both"}, ["norm='both'", "'before', 'after'"]),
        ({"rope_theta": 1}, ["rope_theta=1", "above 1"]),
        ({"rope_scaling": [2]}, ["rope_scaling=[2]", '{"type": "linear", "factor": 2.0}']),
        ({"rope_scaling": {"factor": 2}}, ["rope_scaling={'factor': 2}", "with a type"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}}, ["'dynamic'", "'linear', 'llama3', 'yarn'"]),
        ({"rope_scaling": {"type": "linear"}}, ["'linear' lacks factor"]),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, ["factor=0", "above 0"]),
        ({"rope_scaling": {"type": "linear", "faktor": 2}}, ["'faktor'", "did you mean 'factor'"]),
        ({"rope_scaling": {"type": "yarn", "factor": 2}}, ["lacks original_max_position_embeddings"]),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 8, "beta_fast": 1}},
            ["beta_fast=1", "beta_slow=1.0"],
        ),
        ({"short_conv": 1}, ["short_conv=1", "0 for none", "2 to 16"]),
        ({"short_conv": 17}, ["short_conv=17", "2 to 16"]),
        ({"layers": [{"window": 4}]}, ["layers=[{", "must map", '{"0": {"window": 64}}']),
        ({"layers": {"0": 4}}, ["layers={'0': 4}", "must map"]),
        ({"layers": {"2": {"window": 4}}}, ["no block '2'", "0 to 1", "-1 to -2"]),
        ({"layers": {"9" * 5000: {}}}, ["no block '999"]),
        ({"layers": {"-3": {"window": 4}}}, ["no block '-3'"]),
        ({"layers": {"all": {"window": 4}}}, ["no block 'all'"]),
        ({"layers": {"1": {"window": 4}, -1: {"rate": 1}}}, ["layers['-1'] and layers['1']", "join"]),
        ({"layers": {"0": {"d_model": 8}}}, ["layers['0']", "d_model", "leave it out"]),
        ({"layers": {"0": {"windw": 4}}}, ["'windw' is not a key of layers['0']", "did you mean 'window'"]),
        ({"layers": {"0": {"depth": 4}}}, ["'depth' is not a key of layers['0']"]),
        ({"layers": {"0": {"rate": 2}}}, ["layers['0']: ", "identity", "rate=2", "mean"]),
        (
            {"layers": {"1": {"routing": "shared", "segment": 16}}},
            ["block 1", "block 0", "other values of segment", "routing='own'"],
        ),
        ({"layers": {"1": {"routing": "shared", "max_checkpoints": 2}}}, ["block 1", "max_checkpoints, evict"]),
        ({"max_bytes": 10**4, "layers": {"1": {"routing": "shared", "value_dim": 2}}}, ["block 1", "other values of val_dim"]),
        ({"pattern": "mw", "layers": {"-1": {"window": 0, "write_delay": 0}}}, ["window=0", "pattern"]),
    ],
)
def test_impossible_keys_are_refused_with_the_mend(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        LMConfig.from_dict(BASE | keys)
    for word in words:
        assert word in str(error.value)


def test_missing_keys_and_foreign_shapes() -> None:
    for missing in ("vocab_size", "d_model"):
        with pytest.raises(ConfigError, match=missing):
            LMConfig.from_dict({k: v for k, v in BASE.items() if k != missing})
    with pytest.raises(ConfigError, match="mapping"):
        LMConfig.from_dict([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="preset 'huge'"):
        st.presets.get("huge", 16)


def test_a_configuration_survives_its_dictionary() -> None:
    cfg = LMConfig.from_dict(BASE | {"memory": "deep", "memory_options": {"inner_lr": 0.25}, "pattern": "mw", "tie": False})
    assert LMConfig.from_dict(cfg.to_dict()) == cfg
    assert cfg.replace(window=6).layer == LayerConfig(**{**vars(cfg.layer), "window": 6})
    assert cfg.kinds == ["memory", "window"]


def test_blocks_may_differ() -> None:
    keys = BASE | {"depth": 3, "pattern": "m wm", "memory_options": {"decay": "channel"}}
    cfg = LMConfig.from_dict(keys | {"layers": {0: {"memory": "delta", "window": 6}, "-1": {"segment": 4}, "1": {}}})
    first, second, third = cfg.layer_configs
    assert (first.memory, first.memory_options, first.window) == ("delta", {}, 6)
    assert second == cfg.layer and (third.segment, third.memory_options) == (4, {"decay": "channel"})
    assert cfg.layers == {"0": {"memory": "delta", "window": 6}, "-1": {"segment": 4}}
    assert LMConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg and hash(cfg) == hash(cfg.replace(depth=3))
    assert cfg.replace(window=5).layer_configs[0].window == 6 and cfg.replace(window=5).layer_configs[1].window == 5
    assert cfg.replace(layers={}) == LMConfig.from_dict(keys) != cfg
    assert cfg.memory_layers == [first, third] and cfg.phases == 4 and cfg.widest_window == 6
    assert (
        cfg.differences == "; block 0: memory delta, window 6; block -1: segment 4" and cfg.replace(layers={}).differences == ""
    )
    windows = {"window": 0, "write_delay": 0, "pattern": "mw", "depth": 4, "layers": {"1": {"window": 4}, "3": {"window": 5}}}
    assert [layer.window for layer in LMConfig.from_dict(BASE | windows).layer_configs] == [0, 4, 0, 5]
    with pytest.raises(ConfigError, match=r"window=0 a window layer \(w\) sees no token"):
        LMConfig.from_dict(BASE | windows | {"depth": 6})
    with pytest.raises(ConfigError, match="depth=1000000000000 is more than the 10000 blocks"):
        LMConfig.from_dict(BASE | {"depth": 10**12})
    cfg.to_dict()["layers"]["0"]["window"] = 7
    assert cfg.layers["0"]["window"] == 6


def test_settings_of_the_command_line() -> None:
    assert parse_setting('layers={"0": {"memory": "delta"}}') == ("layers", {"0": {"memory": "delta"}})
    assert parse_setting("window=64") == ("window", 64)
    assert parse_setting("memory=gated") == ("memory", "gated")
    assert parse_setting('memory_options={"rate": 0.5}') == ("memory_options", {"rate": 0.5})
    assert parse_setting("tie=false") == ("tie", False)
    for bad in ("window", "=3"):
        with pytest.raises(ConfigError, match="key=value"):
            parse_setting(bad)


def test_a_preset_takes_no_foreign_key() -> None:
    with pytest.raises(ConfigError, match="'name' is not a key"):
        st.presets.get("tiny", 16, name="x")


@pytest.mark.parametrize("keys", [{}, {"segments": "logarithmic"}, {"pattern": "a"}])
def test_a_saved_state_must_agree_with_its_position(keys: dict[str, Any]) -> None:
    model = st.LM(LMConfig.from_dict(BASE | keys))
    _, state = model(torch.zeros(1, 30, dtype=torch.long))
    tensors, meta = state.tensors(), state.meta()
    assert model.load_state(tensors, meta).position[0] == 30
    with pytest.raises(ValueError, match="implies"):
        model.load_state(tensors, meta | {"position": [10**6]})
    with pytest.raises(ValueError, match="phase must be below 8"):
        model.load_state(tensors, meta | {"phase": [10**9]})


def test_presets_grow() -> None:
    with torch.device("meta"):
        sizes = [st.LM(st.presets.get(name, 8192)).parameters_count for name in st.presets.names()]
    assert sizes == sorted(sizes) and sizes[0] < 2e6 and 3e8 < sizes[-1] < 4e8


def test_inputs_that_do_not_fit() -> None:
    model = st.LM(LMConfig.from_dict(BASE))
    ids = torch.zeros(2, 3, dtype=torch.long)
    for bad in (ids + 16, ids - 1):
        with pytest.raises(InputError, match="vocab_size=16"):
            model(bad)
    for bad in (ids[0], ids.float(), [[1, 2]]):
        with pytest.raises(InputError, match="integer tensor"):
            model(bad)
    with pytest.raises(InputError, match="1 rows and the input 2"):
        model(ids, model.init_state(1))
    with pytest.raises(InputError, match="mask must be a bool tensor"):
        model(ids, mask=torch.ones(2, 3))
    with pytest.raises(InputError, match="reset must be a bool tensor"):
        model(ids, reset=torch.ones(3, 2, dtype=torch.bool))
    for phase in ([8, 0], [-1, 0], [0], [0.5, 0.5], np.zeros((2, 2), int)):
        with pytest.raises(InputError, match="phase"):
            model.init_state(2, phase)
    layer = st.MemoryCaching(8, heads=2, window=4)
    with pytest.raises(InputError, match=r"\[batch, tokens, 8\]"):
        layer(torch.zeros(1, 2, 9))


def test_no_tokens_and_no_rows() -> None:
    model = st.LM(LMConfig.from_dict(BASE))
    state = model.init_state(2)
    logits, after = model(torch.zeros(2, 0, dtype=torch.long), state)
    assert logits.shape == (2, 0, 16) and after is state
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    logits, after = model(torch.zeros(2, 3, dtype=torch.long), state, mask=nothing)
    assert torch.isfinite(logits).all() and (after.position == 0).all()
    for pattern in ("m", "w", "a"):
        logits, after = st.LM(LMConfig.from_dict(BASE | {"pattern": pattern}))(torch.zeros(0, 3, dtype=torch.long))
        assert logits.shape == (0, 3, 16) and len(after) == 0


def test_the_layer_refuses_what_it_does_not_know() -> None:
    for wrong in ({5: 1}, {"layers": {"0": {5: 1}}}, {"negative": {(1, 2): 3}}):
        with pytest.raises(ConfigError, match="is not a key of"):
            LMConfig.from_dict(BASE | wrong)
    with pytest.raises(ConfigError, match="'vocab_size' is not a key of a layer; it is a key of a whole model: use st.LM"):
        st.MemoryCaching(8, vocab_size=3)
    with pytest.raises(ConfigError, match="'hedas' is not a key of a layer; did you mean 'heads'"):
        st.MemoryCaching(d_model=32, hedas=2)
    with pytest.raises(ConfigError, match="'depth' is not a key of a layer"):
        st.MemoryCaching(d_model=32, depth=2)


def test_a_configuration_can_be_a_key() -> None:
    keys = BASE | {"memory": "deep", "memory_options": {"inner_lr": 0.5}}
    a, b = LMConfig.from_dict(keys), LMConfig.from_dict(dict(keys))
    assert a == b and hash(a) == hash(b)
    assert {a: 1}[b] == 1 and a != a.replace(memory_options={"inner_lr": 0.25})


def test_the_package_lists_its_names() -> None:
    assert set(dir(st)) >= {"LM", "Session", "MemoryCaching", "load", "presets", "__version__"}
    assert all(getattr(st, name) is not None for name in dir(st))


def test_every_member_is_listed_with_its_options() -> None:
    found = {family: {m["name"]: m for m in registry.described(family)} for family in registry.FAMILIES}
    assert found["memory"]["deep"]["options"] == {"expansion": 4, "inner_batch": 16, "inner_lr": 0.5, "limit": 2.0}
    assert found["cache"]["sparse"]["options"] == {} and set(found["compress"]) >= {"identity", "mean", "conv"}
    assert all(m["about"] for members in found.values() for m in members.values())
    assert all(set(found[family]) == set(registry.members(family)) for family in registry.FAMILIES)


def test_the_list_on_the_command_line() -> None:
    whole = CliRunner().invoke(app, ["list"])
    assert whole.exit_code == 0 and "gated_delta" in whole.stdout
    assert """--set 'memory_options={"negative": false}'\n""" in whole.stdout
    assert max(map(len, whole.stdout.splitlines())) < 200
    one = json.loads(CliRunner().invoke(app, ["list", "cache", "--json"]).stdout)
    assert [m["name"] for m in one["cache"]] == ["blocks", "exact", "gated", "none", "residual", "soup", "sparse"]
    assert CliRunner().invoke(app, ["list", "memories"]).exit_code == 2


def test_states_of_other_models_are_refused() -> None:
    ids = torch.zeros(1, 20, dtype=torch.long)
    model = st.LM(LMConfig.from_dict(BASE))
    for keys in (
        {"memory": "titans"},
        {"segments": "logarithmic"},
        {"pattern": "w"},
        {"depth": 3},
        {"d_model": 16},
        {"window": 6},
    ):
        _, state = st.LM(LMConfig.from_dict(BASE | keys))(ids)
        for length in (1, 5):
            with pytest.raises(InputError, match="fresh state"):
                model(ids[:, :length], state)
