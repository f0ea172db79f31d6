"""A fuzzer of configurations: any keys and values give a ConfigError, or a model that runs, in any split the same."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import torch

import siltstone as st
from siltstone.config import registry
from siltstone.errors import ConfigError, SiltstoneError

from .factor import FACTOR
from .test_forger import NASTY

BASE: dict[str, Any] = {
    "vocab_size": 31, "d_model": 16, "heads": 2, "depth": 2, "window": 6, "segment": 8, "router_dim": 8, "segments": "constant",
}  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "memory": list(registry.members("memory")),
    "cache": list(registry.members("cache")),
    "compress": list(registry.members("compress")),
    "segments": ["constant", "logarithmic", "content"],
    "start": ["restart", "carry"],
    "gate": ["softmax", "sigmoid"],
    "router": ["mean", "subblock:2", "subblock:4", "subblock:x", "subblock:0", "anchor:2"],
    "evict": ["age", "use", "merge"],
    "checkpoint_dtype": ["float32", "bfloat16", "int8"],
    "position": ["rope", "alibi", "none"],
    "pattern": ["m", "mw", "mwa", "a", "mm a", "q"],
    "write_delay": ["window", 0, 1],
    "window": [0, 1, 4, 8],
    "sinks": [0, 1, 3],
    "rate": [1, 2, 4],
    "compress_every": [2, 4, None],
    "short_conv": [0, 2, 4],
    "max_checkpoints": [1, 2, None],
    "max_bytes": [1, 10**5, None],
    "layers": [{"0": {"memory": "titans"}}, {"-1": {"cache": "sparse"}}, {"5": {}}, {"0": {"layers": {}}}],
    "memory_options": [{"decay": "channel"}, {"negative": True}, {"inner_batch": 3}, {"expansion": -1}, {"x": 1}],
    "routing": ["own", "shared"],
    "mlp": ["swiglu", "gelu"],
    "tie": [True, False],
    "kv_heads": [1, 2, 3],
    "qk_norm": [True, False, "all", 1],
    "rope_scaling": [{}, {"type": "linear", "factor": 2}, {"type": "dynamic", "factor": 2}, {"type": "yarn", "factor": 0}, []],
    "norm": ["before", "after", "none"],
    "qkv_bias": [True, False],
    "cut_at": ["\n", None, "", "\ud800"],
}


def drawn(rng: random.Random, nasty: float) -> dict[str, Any]:
    keys = dict(BASE)
    for name in rng.sample(list(VALUES), rng.randrange(1, 8)):
        keys[name] = rng.choice(VALUES[name])
    while rng.random() < nasty:
        name = rng.choice([*st.LMConfig.from_dict(BASE).to_dict(), "more", "d_model ", ""])
        keys[name] = rng.choice(NASTY)
    return keys


def small(cfg: st.LMConfig) -> bool:
    """Whether a model of it is made in milliseconds."""
    layers = cfg.layer_configs
    return cfg.depth <= 4 and max(cfg.vocab_size, cfg.layer.d_model, cfg.hidden) <= 256 and all(
        max(x.window, x.sinks, x.segment, x.router_dim, x.heads * max(x.key_dim, x.val_dim)) <= 256 for x in layers
    )  # fmt: skip


def runs(cfg: st.LMConfig, rng: random.Random) -> None:
    """Some tokens at once, and the same in two calls."""
    torch.manual_seed(0)
    model = st.LM(cfg).double().eval()
    ids = torch.randint(0, cfg.vocab_size, (2, 20))
    with torch.no_grad():
        whole, _ = model(ids)
        first, state = model(ids[:, : (at := rng.randrange(20))])
        state = model.load_state(state.tensors(), json.loads(json.dumps(state.meta())))
        second, _ = model(ids[:, at:], state)
    both = torch.cat([first, second], 1)
    assert torch.isfinite(whole).all() and (whole - both).abs().max() <= 1e-10 * max(1, float(whole.abs().max())), cfg.to_dict()


def test_any_keys_and_values() -> None:
    rng, made, ran = random.Random(0), 0, 0
    for _ in range(int(700 * FACTOR)):
        keys, began = drawn(rng, 0.4), time.monotonic()
        try:
            cfg = st.LMConfig.from_dict(keys)
        except ConfigError as error:
            assert str(error) and len(str(error)) < 4000
            continue
        made += 1
        assert st.LMConfig.from_dict(json.loads(json.dumps(cfg.to_dict()))) == cfg
        if small(cfg) and ran < 60 * FACTOR:
            try:
                runs(cfg, rng)
                ran += 1
            except SiltstoneError as error:  # what only a whole model finds, as a budget too small for one checkpoint
                assert "max_bytes" in str(error) or "layer" in str(error), keys
        assert time.monotonic() - began < 5, keys
    assert made > 50 * FACTOR and ran > 20 * FACTOR
