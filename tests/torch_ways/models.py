"""Small models of every member of the registry, and of what else changes how a model computes."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

import siltstone as st
from siltstone.config import registry
from siltstone.errors import ConfigError

BASE: dict[str, Any] = dict(vocab_size=23, depth=1, d_model=16, heads=2, window=4, segment=4, router_dim=4, write_delay=0)
SLOW = ("deep", "titans", "slots")


def _fits(keys: dict[str, Any]) -> bool:
    try:
        st.LMConfig.from_dict(BASE | keys)
    except ConfigError:
        return False
    return True


def _named(keys: dict[str, Any]) -> str:
    return " ".join(x if isinstance(x, str) else json.dumps(x) for x in keys.values())


RULES = [
    {"memory": name, "memory_options": options | ({"inner_batch": 2} if name in SLOW else {})}
    for name, options in registry.settings("memory")
]
COMPRESSORS: list[dict[str, Any]] = [
    {"compress": name, "rate": 1 if name == "identity" else 2} for name in registry.members("compress")
]
COMPRESSORS.append({"compress": "attention", "rate": 2, "compress_options": {"context": True}, "write_delay": "window"})
CACHES = [
    keys
    for name in registry.members("cache")
    for keys in (
        {"cache": name},
        {"cache": name, "segments": "logarithmic"},
        {"cache": name, "max_checkpoints": 2, "evict": "use" if name in ("gated", "sparse", "soup") else "merge"},
        {"cache": name, "memory": "deep", "memory_options": {"inner_batch": 2}, "gate": "softmax"},
    )
    if _fits(keys)
]
OTHERS: list[dict[str, Any]] = [
    {"pattern": "mwa", "depth": 3},
    {"tie": False},
    {"mlp": "gelu", "short_conv": 3, "qk_norm": True, "sinks": 1, "position": "alibi"},
    {"routing": "shared", "depth": 2},
    {"router": "anchor:2", "cache_options": {"exact": 2}},
]
EVERY = RULES + COMPRESSORS + CACHES + OTHERS
IDS = [_named(keys) for keys in EVERY]


def model(keys: dict[str, Any]) -> st.LM:
    """A model whose weights are generic, float32."""
    torch.manual_seed(0)
    lm = st.LM(st.LMConfig.from_dict(BASE | keys))
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return lm


def some_ids(rows: int = 2, tokens: int = 13) -> Tensor:
    """int64 [rows, tokens]: three segments and a bit."""
    return torch.randint(0, 23, (rows, tokens), generator=torch.Generator().manual_seed(1))


def decoded(lm: Any, ids: Tensor, state: Any = None, inplace: bool = True) -> Tensor:
    """Logits of a model that reads token by token."""
    outs = []
    with torch.no_grad():
        for t in range(ids.shape[1]):
            y, state = lm(ids[:, t : t + 1], state, inplace=inplace)
            outs.append(y)
    return torch.cat(outs, 1)
