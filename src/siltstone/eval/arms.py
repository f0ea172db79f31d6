"""Arms of a comparison: variants of one configuration, with matched parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..cache.base import Router
from ..config.layer import LayerConfig
from ..config.model import LMConfig
from ..errors import ConfigError
from ..models.lm import LM
from .costs import parameters, state_bytes

SHARED = ("vocab_size", "d_model", "heads", "depth", "mlp", "mlp_dim", "tie", "norm_eps")
WIDEST_MLP = 1 << 16


@dataclass(frozen=True)
class Arm:
    """One variant.

    keys     keys of the layer, beside those that all arms share (`SHARED`)
    routing  "learned", "random": the scores of checkpoints are random numbers, or "oracle": at questions of a token task, the
             scores name the segment that holds the answer (`siltstone.eval.watch`)
    recipe   settings of training (`siltstone.train.recipe.Recipe`) that differ from those of the other arms
    equal    whether the width of the heads is chosen so that the state has the bytes of the "gated" arm at the length
    """

    name: str
    keys: dict[str, Any] = field(default_factory=dict)
    routing: str = "learned"
    equal: bool = False
    recipe: dict[str, Any] = field(default_factory=dict)


def arms(base: LMConfig, length: int) -> list[Arm]:
    """The arms of a base configuration, whose window, segment, update rule and format of checkpoints they use.

    length  tokens of the longest text in training; the transformer attends to so many and no more
    """
    layer = base.layer
    exact: dict[str, Any] = {"window": layer.window, "position": layer.position, "short_conv": layer.short_conv}
    if not layer.window:
        exact["window"] = layer.segment
    plain = {"memory": layer.memory, "memory_options": layer.memory_options, "write_delay": layer.write_delay}
    plain |= {key: getattr(layer, key) for key in ("window", "position", "short_conv", "head_dim", "value_dim")}
    sealed = plain | {"segment": layer.segment, "segments": "constant", "checkpoint_dtype": layer.checkpoint_dtype}
    sparse = sealed | {"cache": "sparse", "top_k": max(1, min(layer.top_k, length // layer.segment))}
    return [
        Arm("transformer", exact | {"pattern": "w", "window": length}),
        Arm("window only", exact | {"pattern": "w"}),
        Arm("window and sinks", exact | {"pattern": "w", "sinks": 4}),
        Arm("plain recurrence", plain | {"cache": "none"}),
        Arm("one state of equal bytes", plain | {"cache": "none"}, equal=True),
        Arm("residual", sealed | {"cache": "residual"}),
        Arm("gated", sealed | {"cache": "gated"}),
        Arm("gated, carry", sealed | {"cache": "gated", "start": "carry"}),
        Arm("gated, logarithmic", sealed | {"cache": "gated", "segments": "logarithmic"}),
        Arm("gated, budget", sealed | {"cache": "gated", "max_checkpoints": max(1, length // layer.segment // 2)}),
        Arm("gated, sub-blocks", sealed | {"cache": "gated", "router": "subblock:4"}),
        Arm("soup", sealed | {"cache": "soup"}),
        Arm("sparse", sparse),
        Arm("sparse, random routing", sparse, routing="random"),
        Arm("sparse, oracle routing", sparse, routing="oracle"),
        Arm("exact", plain | {"cache": "exact"}),
        Arm("blocks", exact | keys_of_blocks(layer) | {"kv_heads": 1}),
    ]


def tricks(base: LMConfig, length: int) -> list[Arm]:
    """Arms that differ from one of `arms` in one way of training or one key; a recipe has those that it names."""
    known = {arm.name: arm for arm in arms(base, length)}
    sparse, gated, half = known["sparse"].keys, known["gated"].keys, max(1, base.layer.window // 2)
    return [
        Arm("sparse, dense first", sparse, recipe={"dense": 0.3}),
        Arm("sparse, dense first, routing loss", sparse, recipe={"dense": 0.3, "routing_loss": 1.0}),
        Arm("gated, window dropout", gated, recipe={"window_dropout": 0.1}),
        Arm("gated, random windows", gated, recipe={"random_windows": 0.5}),
        Arm("sparse, anchor keys", sparse | {"router": "anchor:4"}),
        Arm("gated, exact pairs", gated | {"cache_options": {"exact": 16}}),
        Arm("gated, softmax", gated | {"gate": "softmax"}),
        Arm("gated, half the window", gated | {"window": half}),
        Arm("gated, no convolution", gated | {"short_conv": 0}),
    ]


def keys_of_blocks(layer: LayerConfig) -> dict[str, Any]:
    """cache="blocks" with blocks of the layer's segments, each with routing keys of two tokens."""
    part, most = 2 - layer.segment % 2, layer.segment
    return {
        "cache": "blocks", "cache_options": {"router_queries": min(8, most), "route_every": min(8, most)}, "segment": most,
        "segments": "constant", "top_k": layer.top_k, "router": f"subblock:{part}",
    }  # fmt: skip


def configured(base: LMConfig, arm: Arm, length: int, match: bool = True) -> LMConfig:
    """The configuration of an arm.

    match   choose the `mlp_dim` whose number of parameters is nearest to that of `base`
    Raises ConfigError if the arm cannot be as small as the base.
    """
    given = {key: value for key, value in base.to_dict().items() if key in SHARED}
    cfg = LMConfig.from_dict(given | arm.keys)
    if arm.equal:
        gated = next(one for one in arms(base, length) if one.name == "gated")
        cfg = _with_bytes(cfg, state_bytes(LMConfig.from_dict(given | gated.keys), length), length)
    return matched(cfg, parameters(base)) if match else cfg


def matched(cfg: LMConfig, wanted: int) -> LMConfig:
    """The configuration with the `mlp_dim` whose number of parameters is nearest to `wanted`: the number is affine in it."""
    least, more = (parameters(cfg.replace(mlp_dim=width)) for width in (1, 2))
    if least > wanted:
        raise ConfigError(f"mlp_dim=1 gives {least:,} parameters, more than {wanted:,}; ask for more, or make the model smaller")
    return cfg.replace(mlp_dim=min(1 + round((wanted - least) / (more - least)), WIDEST_MLP))


def _with_bytes(cfg: LMConfig, wanted: int, length: int) -> LMConfig:
    """The configuration with the even width of heads whose state has the number of bytes nearest to `wanted`."""

    def size(half: int) -> int:
        return state_bytes(cfg.replace(head_dim=2 * half, value_dim=2 * half), length)

    low, high = 1, 2
    while size(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= wanted else (low, middle)
    half = min((low, high), key=lambda x: abs(size(x) - wanted))
    return cfg.replace(head_dim=2 * half, value_dim=2 * half)


def build(cfg: LMConfig, arm: Arm, seed: int) -> LM:
    """A new model of an arm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LM(cfg)
    if arm.routing == "random":
        route_at_random(model, seed)
    return model


def route_at_random(model: LM, seed: int) -> None:
    """Replaces the scores of checkpoints by pseudo-random numbers from 0 to 1.

    They are digits of a projection of query and summary, so that they need no state: a resumed run has the same ones.
    """
    by = torch.Generator("cpu").manual_seed(seed)
    for part in model.modules():
        if isinstance(part, Router):
            part.scores = _chance(torch.randn(2, part.key.out_features, generator=by, dtype=torch.float32, device="cpu"))


def _chance(directions: Tensor) -> Callable[..., Tensor]:
    def scores(u: Tensor, summary: Tensor, empty: Tensor | None) -> Tensor:
        one, two = directions.to(u)
        query, found = u.detach() @ one, summary.detach().mean(2) @ two
        return (1000 * (query[:, :, None] + found[:, None])).frac().abs()

    return scores
