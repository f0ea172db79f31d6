"""Keys that cannot have an effect are refused, unless they are at their defaults."""

from __future__ import annotations

from typing import Any

import pytest

import siltstone as st
from siltstone.config import registry
from siltstone.config.model import LMConfig
from siltstone.errors import ConfigError
from tests.contract.grid import CACHES, ROUTED

BASE: dict[str, Any] = {"vocab_size": 16, "d_model": 8, "heads": 2, "depth": 3, "window": 4, "segment": 8}
GATED: dict[str, Any] = {
    "router": "subblock:2",
    "router_dim": 8,
    "gate": "softmax",
    "temperature": 0.5,
    "gate_distance": "alibi",
}


def refused(keys: dict[str, Any], *words: str) -> None:
    with pytest.raises(ConfigError) as error:
        LMConfig.from_dict(BASE | keys)
    for word in words:
        assert word in str(error.value)


def used(cache: str) -> dict[str, Any]:
    """The keys that a layer with this cache has a use for, at values that are not their defaults."""
    found = GATED if cache in ROUTED else {}
    found = found | ({"top_k": 2} if cache == "sparse" else {})
    return found if cache in ("none", "exact") else found | {"checkpoint_dtype": "int8", "max_bytes": 10**6, "evict": "merge"}


@pytest.mark.parametrize("cache", CACHES)
def test_a_layer_refuses_what_its_cache_does_not_use(cache: str) -> None:
    plain: dict[str, Any] = dict(heads=2, window=4, segment=8, cache=cache, memory="delta")
    st.MemoryCaching(8, **plain, **used(cache))
    for key, value in (GATED | {"top_k": 2, "checkpoint_dtype": "int8"}).items():
        if key in used(cache):
            continue
        with pytest.raises(ConfigError) as error:
            st.MemoryCaching(8, **plain, **{key: value})
        usual = getattr(st.LayerConfig(8), key)
        for words in (f"{key}={value!r}", f"cache={cache!r}", f"set {key}={usual!r} (the default)", "or "):
            assert words in str(error.value)
        st.MemoryCaching(8, **plain, **{key: usual})


@pytest.mark.parametrize(
    ("idle", "because"),
    [
        ({"rope_theta": 500.0}, {"position": "alibi"}),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {"position": "none"}),
        ({"qk_norm_eps": 1e-3}, {"qk_norm": False}),
    ],
)
@pytest.mark.parametrize("pattern", ["m", "w", "a"])
def test_keys_of_attention_that_nothing_uses(idle: dict[str, Any], because: dict[str, Any], pattern: str) -> None:
    (key, value), (other, reason) = *idle.items(), *because.items()
    mend = {"position": "rope", "qk_norm": True}[other]
    refused(idle | because | {"pattern": pattern}, f"{key}={value!r} has no effect with {other}={reason!r}", f"{other}={mend!r}")
    refused(because | {other: mend, "pattern": pattern, "layers": {"1": idle | because}}, "layers['1']", f"{key}={value!r}")
    with pytest.raises(ConfigError, match=key):
        st.MemoryCaching(8, heads=2, window=4, segment=8, **idle, **because)
    LMConfig.from_dict(BASE | idle | because | {"pattern": pattern, "layers": {"-1": {other: mend}}})  # one block uses it


def test_a_layer_that_stands_alone_has_nobody_to_share_with() -> None:
    for cache in ("gated", "none"):
        with pytest.raises(ConfigError, match=r"routing='shared'.*no earlier one.*routing='own'"):
            st.MemoryCaching(8, heads=2, cache=cache, routing="shared")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"top_k": 2}, ["top_k=2", "cache='gated'", "top_k=4 (the default)", "cache='sparse'"]),
        ({"cache": "none", "router": "subblock:4"}, ["router='subblock:4'", "cache='none'", "router='mean'"]),
        ({"cache": "residual", "gate": "softmax"}, ["gate='softmax'", "cache='residual'", "no gates"]),
        ({"cache": "none", "routing": "shared"}, ["routing='shared'", "cache='none'"]),
        ({"cache": "exact", "checkpoint_dtype": "bfloat16"}, ["checkpoint_dtype='bfloat16'", "keeps no checkpoints"]),
        ({"evict": "merge"}, ["evict='merge'", "budget", "evict='age'", "max_checkpoints"]),
        ({"cut_at": ";"}, ["cut_at=';'", "segments='constant'", r"cut_at='\n'", "segments='content'"]),
        ({"cut_at": ";", "segments": "content", "cache": "none"}, ["cut_at=';'", "cache='none'", "keeps checkpoints"]),
        (
            {"cache": "none", "temperature": 1.0, "layers": {"1": {"cache": "exact"}}},
            ["temperature=1.0", "cache='exact' or 'none'"],
        ),
        ({"pattern": "mww", "routing": "shared"}, ["routing='shared'", "routing='own' (the default)", "two memory layers"]),
        ({"routing": "shared", "layers": {"0": {"cache": "none"}, "2": {"routing": "own"}}}, ["routing='shared'", "two memory"]),
        ({"layers": {"0": {"routing": "shared"}}}, ["layers['0']", "no memory layer before this block", "routing='own'"]),
        ({"routing": "shared", "layers": {"0": {"routing": "shared"}}}, ["layers['0']", "before this block"]),
        ({"pattern": "wmm", "layers": {"1": {"routing": "shared"}}}, ["layers['1']", "before this block"]),
        ({"layers": {"-1": {"routing": "shared", "cache": "none"}}}, ["layers['-1']", "cache='none'"]),
        ({"layers": {"1": {"routing": "shared", "router_dim": 8}}}, ["layers['1']", "router_dim=8", "routing='own'"]),
        ({"layers": {"1": {"top_k": 2}}}, ["layers['1']", "top_k=2", "cache='sparse'"]),
        ({"router": "subblock:4", "layers": {"1": {"cache": "none", "router": "subblock:2"}}}, ["layers['1']", "subblock:2"]),
        ({"layers": {"1": {"cache": "none", "router_dim": 8}}}, ["layers['1']", "router_dim=8"]),
        ({"layers": {"1": {"evict": "merge"}}}, ["layers['1']", "budget"]),
        ({"compress": "mean"}, ["compress='mean' has no effect at rate=1", "set compress='identity'", "rate=2 or more"]),
        ({"compress": "gated", "compress_every": 4}, ["compress='gated' has no effect at rate=1"]),
        ({"compress": "mean", "layers": {"0": {"compress": "conv", "rate": 2}}}, ["compress='mean'", "rate=1 or 2"]),
        ({"layers": {"1": {"compress": "gated"}}}, ["layers['1']", "compress='gated'", "rate=2 or more"]),
        ({"segments": "content", "cache": "none"}, ["segments='content'", "cache='none'", "segments='constant' (the default)"]),
        ({"segments": "content", "cache": "exact"}, ["segments='content'", "cache='exact', which keeps no checkpoints"]),
        ({"layers": {"1": {"segments": "content", "cache": "none"}}}, ["layers['1']", "segments='content'"]),
        (
            {"segments": "content", "cache": "none", "layers": {"0": {"cache": "gated", "segments": "constant"}}},
            ["segments='content'", "cache='gated' or 'none'"],
        ),
    ],
)
def test_a_model_refuses_what_no_layer_uses(keys: dict[str, Any], words: list[str]) -> None:
    refused(keys, *words)


@pytest.mark.parametrize(
    "keys",
    [
        {"router": "subblock:4", "gate": "softmax", "layers": {"1": {"cache": "none"}}},
        {"cache": "none", "top_k": 2, "layers": {"-1": {"cache": "sparse"}}},
        {"evict": "merge", "layers": {"2": {"max_checkpoints": 2}}},
        {"max_checkpoints": 2, "layers": {"2": {"evict": "merge"}}},
        {"cache": "sparse", "layers": {"0": {"top_k": 2}}},
        {"cut_at": ";", "layers": {"1": {"segments": "content"}}},
        {"checkpoint_dtype": "int8", "layers": {"0": {"cache": "none"}}},
        {"routing": "shared"},
        {"routing": "shared", "layers": {"0": {"cache": "none"}}},
        {"layers": {"2": {"routing": "shared"}}},
        {"cut_at": None},
        {"compress": "mean", "rate": 2},
        {"compress": "conv"},
        {"compress": "attention"},
        {"compress": "mean", "layers": {"1": {"rate": 2}}},
        {"segments": "content", "cache": "none", "layers": {"2": {"cache": "gated"}}},
        {"segments": "logarithmic", "cache": "none"},
        {"cache": "none", "layers": {"0": {"router": "mean", "routing": "own", "top_k": 4}}},
    ],
)
def test_a_key_that_some_layer_uses_is_accepted(keys: dict[str, Any]) -> None:
    cfg = LMConfig.from_dict(BASE | keys)
    assert LMConfig.from_dict(cfg.to_dict()) == cfg


def test_presets_and_the_model_that_ships_take_every_cache() -> None:
    shipped = st.load(st.demo_run())[0].cfg
    for cfg in (shipped, *(st.presets.get(name, 300, memory="delta") for name in st.presets.names())):
        for cache in registry.members("cache"):
            assert cfg.replace(cache=cache).replace(cache="gated") == cfg.replace(cache="gated")


def test_the_twin_without_a_memory_keeps_its_keys() -> None:
    cfg = LMConfig.from_dict(BASE | GATED | {"cache": "sparse", "top_k": 2, "routing": "shared", "checkpoint_dtype": "int8"})
    assert cfg.replace(pattern="w", segments="content", cache="none", compress="mean")
    for pattern in ("w", "a"):
        assert cfg.replace(pattern=pattern).replace(pattern="m") == cfg


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"router": "subblock:3"}, "for example router='subblock:2'"),
        ({"segment": 24, "router": "subblock:7"}, "for example router='subblock:6'"),
        ({"segment": 24, "router": "subblock:48"}, "for example router='subblock:12'"),
        ({"segment": 24, "compress_every": 4, "router": "subblock:2"}, "for example router='subblock:4'"),
        ({"segment": 7, "router": "subblock:2"}, "for example router='mean'"),
        ({"heads": 4, "head_dim": 4, "kv_heads": 3}, "choose one of its divisors [1, 2, 4]"),
        ({"compress": "attention", "rate": 2, "compress_options": {"queries": 5}}, "for example 4"),
        (
            {"compress": "attention", "rate": 2, "compress_options": {"quiries": 5}},
            "'context'] (did you mean 'queries'?)",
        ),
        ({"memory_options": {"decoy": "head"}}, "its options are ['decay'] (did you mean 'decay'?)"),
        ({"memory": "swla", "memory_options": {"decay": "head"}}, "it has none: leave memory_options out"),
    ],
)
def test_the_mend_is_one_that_works(keys: dict[str, Any], words: str) -> None:
    refused(keys, words)
