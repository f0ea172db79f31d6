"""Run folders with small models of our own, loaded by transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import siltstone as st
from siltstone.hf.library import quiet

from .tiny import transformers

BASE: dict[str, Any] = dict(vocab_size=259, d_model=32, heads=2, depth=2, pattern="mw", window=6, segment=8, mlp_dim=32)
KINDS: dict[str, dict[str, Any]] = {
    "gated delta": dict(memory="gated_delta", cache="gated"),
    "logarithmic": dict(memory="delta", cache="gated", segments="logarithmic"),
    "sparse, sinks": dict(memory="gated", cache="sparse", top_k=2, sinks=2, segment=4),
    "content": dict(memory="linear", segments="content", cut_at=" "),
    "exact writes": dict(memory="gated_delta", cache="exact"),
    "conv, budget": dict(memory="gated", compress="mean", rate=2, max_checkpoints=3, short_conv=3),
    "titans": dict(memory="titans"),
    "attention": dict(pattern="a", tie=False),
    "blocks": dict(
        cache="blocks",
        position="rope",
        segment=4,
        sinks=1,
        router="subblock:2",
        top_k=2,
        checkpoint_dtype="int8",
        cache_options=dict(router_queries=2, route_every=4),
    ),
}


def model(kind: str = "gated delta", **more: Any) -> st.LM:
    """A model with random weights that do not say the same token again and again."""
    torch.manual_seed(1)
    made = st.LM(st.LMConfig.from_dict(BASE | KINDS[kind] | more)).eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape) * (0.3 if p.dim() > 1 else 0.05))
    return made


def folder(path: Path, kind: str = "gated delta", **more: Any) -> Path:
    """Its run folder, with bytes as tokens."""
    return st.save(model(kind, **more), st.ByteTokenizer(), path)


def loaded(path: Path, **how: Any) -> Any:
    """The model of a folder, by transformers."""
    with quiet(transformers):
        return transformers.AutoModelForCausalLM.from_pretrained(path, **how).eval()


def tokenizer(path: Path) -> Any:
    """The tokenizer of a folder, by transformers."""
    return transformers.AutoTokenizer.from_pretrained(path)


@torch.no_grad()
def full(lm: st.LM, ids: Tensor, cuts: Tensor | None = None, asks: int = 1 << 40) -> Tensor:
    """Logits of the token after ids [T], by one call that reads all of them. asks: from this token on, blocks are chosen before
    every token."""
    cut = {} if cuts is None else {"cut": cuts[ids][None]}
    return lm(ids[None], lm.init_state(1).asking(since=torch.tensor([asks])), **cut)[0][0, -1]


PROMPTS = ["the cat and the dog went out into the rain", "a rat"]
