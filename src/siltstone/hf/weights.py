"""Names of weights: ours, and those of transformers' decoders. Ours join the rows of queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..config.model import LMConfig

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def names(cfg: LMConfig) -> dict[str, list[str]]:
    """Our name -> the names of transformers whose rows it joins, in order."""
    found = {"embed.weight": [EMBED], "norm.weight": ["model.norm.weight"]}
    if not cfg.tie:
        found["unembed.weight"] = [HEAD]
    mixed, mlp = "input_layernorm", "post_attention_layernorm"
    if cfg.norm == "after":
        mixed, mlp = "post_attention_layernorm", "post_feedforward_layernorm"
    for i in range(cfg.depth):
        ours, theirs, layer = f"blocks.{i}", f"model.layers.{i}", cfg.layer_configs[i]
        found |= {f"{ours}.norm_mix.weight": [f"{theirs}.{mixed}.weight"], f"{ours}.norm_mlp.weight": [f"{theirs}.{mlp}.weight"]}
        for kind, attention, projection, dense in (
            ("weight", True, True, True),
            ("bias", layer.qkv_bias, layer.out_bias, cfg.mlp_bias),
        ):
            if attention:
                found[f"{ours}.mix.window.qkv.{kind}"] = [f"{theirs}.self_attn.{x}_proj.{kind}" for x in "qkv"]
            if projection:
                found[f"{ours}.mix.out.{kind}"] = [f"{theirs}.self_attn.o_proj.{kind}"]
            if dense:
                found |= {f"{ours}.mlp.{x}.{kind}": [f"{theirs}.mlp.{x}_proj.{kind}"] for x in ("gate", "up", "down")}
        if layer.qk_norm:
            found |= {f"{ours}.mix.window.{x}_norm": [f"{theirs}.self_attn.{x}_norm.weight"] for x in "qk"}
    return found


def joined(cfg: LMConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights from theirs; parts of different dtypes are joined in a dtype that holds both."""
    found = {}
    for name, parts in names(cfg).items():
        pieces = [theirs[part] for part in parts]
        found[name] = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return found


def parted(cfg: LMConfig, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `joined`."""
    found = {}
    for name, parts in names(cfg).items():
        if len(parts) == 1:
            found[parts[0]] = ours[name]
            continue
        layer = cfg.layer_configs[int(name.split(".")[1])]
        sizes = [layer.heads * layer.key_dim, layer.key_heads * layer.key_dim, layer.key_heads * layer.val_dim]
        found |= dict(zip(parts, ours[name].split(sizes), strict=True))
    return found
