"""Random weights with the shapes and names of a layer, to test the oracle on its own."""

from __future__ import annotations

import torch

from .window import Config, Weights, sizes

BASE: Config = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=0, position="rope", write_delay="window",
    compress="identity", rate=1, memory="linear", cache="gated", segment=4, segments="constant", start="restart",
    gate="softmax", top_k=2, router="mean", router_dim=4, memory_options={},
)  # fmt: skip
DEEP = dict(memory="deep", memory_options=dict(inner_batch=2, expansion=2, inner_lr=0.5))
SLOTS = dict(memory="slots", memory_options=dict(inner_batch=2, number=3, gate="lstm"))
INNER = {"deep": DEEP, "titans": DEEP | dict(memory="titans"), "slots": SLOTS}  # rules with an inner batch


def layer_weights(cfg: Config, seed: int = 0) -> Weights:
    """Weights of every part that the configuration has."""
    H, K, V = sizes(cfg)
    D, R = cfg["d_model"], cfg["router_dim"]
    shapes: dict[str, tuple[int, ...]] = {"out.weight": (D, H * V), "norm": (H, V)}
    if cfg["window"]:
        shapes["window.qkv.weight"] = (H * K + (cfg.get("kv_heads") or H) * (K + V), D)
    if cfg.get("qk_norm"):
        shapes |= {"window.q_norm": (K,), "window.k_norm": (K,)}
    if cfg.get("short_conv"):
        shapes["conv.taps"] = (cfg["short_conv"], D)
    rule = cfg["memory"]
    if rule in ("gru", "lstm"):
        wide = {"gru": 3, "lstm": 4}[rule] * H * V
        shapes["memory.norm.weight"] = (D,)
        shapes |= {f"memory.{rule}.weight_{x}_l0": (wide, n) for x, n in (("ih", D), ("hh", H * V))}
        shapes |= {f"memory.{rule}.bias_{x}_l0": (wide,) for x in ("ih", "hh")}
    elif rule == "slstm":
        shapes |= {"memory.norm.weight": (D,), "memory.recurrent": (H, V, 4 * V)}
        shapes |= {"memory.write.weight": (4 * H * V, D), "memory.write.bias": (4 * H * V,)}
    elif rule == "slots":
        number = cfg["memory_options"]["number"]
        wide = {"lstm": 3, "gru": 2}[cfg["memory_options"]["gate"]] * V
        shapes |= {"memory.query.weight": (H * K, D), "memory.write.weight": (H * (K + V), D)}
        for name in ("seek", "key"):
            shapes |= {f"memory.{name}": (H, V, K), f"memory.{name}_id": (H, number, K), f"memory.{name}_scale": (H,)}
        shapes |= {"memory.first": (H, number, V), "memory.gate": (H, V, wide), "memory.bias": (H * number * wide,)}
    elif rule in ("min_gru", "min_lstm"):
        wide = {"min_gru": 2, "min_lstm": 3}[rule] * H * V
        shapes |= {"memory.write.weight": (wide, D), "memory.write.bias": (wide,)}
    else:
        per_head = dict(linear=0, gated=2, delta=1, gated_delta=2, deep=1, titans=3, swla=3, mlstm=2)
        gates = per_head.get(rule, 0) * H
        shapes |= {"memory.query.weight": (H * K, D), "memory.write.weight": (H * (K + V), D)}
        if cfg["memory_options"].get("decay") == "channel":
            gates = H
            shapes |= {"memory.fade.weight": (H * K, D), "memory.fade.bias": (H * K,)}
        if gates:
            shapes |= {"memory.gates.weight": (gates, D), "memory.gates.bias": (gates,)}
    if cfg["memory"] in ("deep", "titans"):
        F = cfg["memory_options"]["expansion"] * K
        shapes |= {"memory.w_in": (H, K, F), "memory.w_out": (H, F, K)}
    if cfg["cache"] in ("gated", "soup", "sparse"):
        name, _, anchors = cfg["router"].partition(":")
        shapes |= {"router.query.weight": (R, D), "router.key.weight": (R, H * V if name == "anchor" else D)}
        shapes |= {"router.anchor": (int(anchors), D)} if name == "anchor" else {}
        shapes |= {f"router.{name}": (H,) for name in ("log_scale", "bias", "online")}
    gen = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=gen, dtype=torch.float64) * 0.5 for name, shape in shapes.items()}


def stream(length: int, width: int = 8, seed: int = 1) -> torch.Tensor:
    """Random inputs [T, D]."""
    return torch.randn(length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
