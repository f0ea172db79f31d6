"""Unused keys raise ConfigError, unless they are at their defaults.

A key of the whole model is unused if none of its memory layers uses it, a key in `layers` if that block does not use it.
A model without memory layers may have unused keys, so that `cfg.replace(pattern="w")` gives the window-only twin of any model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import ConfigError
from .checks import require
from .keys import defaults, flat
from .layer import LayerConfig


class Blocks(Protocol):
    """A model's configuration, as its blocks see it."""

    @property
    def layer(self) -> LayerConfig: ...

    @property
    def layers(self) -> dict[str, dict[str, Any]]: ...

    @property
    def layer_configs(self) -> Any: ...

    @property
    def memory_layers(self) -> list[LayerConfig]: ...

    @property
    def routing_shared(self) -> Any: ...


@dataclass(frozen=True)
class Use:
    """When a key is used.

    by      whether a layer uses it
    none    part of the message if no layer does; the names in `NAMED` are filled in from the layers
    mend    what to set instead
    values  the values that require such a layer; empty: every value but the default
    """

    by: Callable[[LayerConfig], bool]
    none: str
    mend: str
    values: tuple[str, ...] = ()


def _policy(layer: LayerConfig) -> Any:
    return layer.members.cache.cls


_GATES = Use(
    lambda layer: _policy(layer).routed,
    "with cache={cache}, which has no gates over checkpoints",
    "a cache with gates, for example cache='gated'",
)
POOLS = ("mean", "gated")  # weights that add up to 1 over the tokens of a write
_SUMMARIES = Use(lambda layer: _policy(layer).routed or _policy(layer).exact, _GATES.none, _GATES.mend)
USES = dict.fromkeys(("router_dim", "routing", "gate", "temperature", "gate_distance"), _GATES) | {
    "router": _SUMMARIES,
    "top_k": Use(
        lambda layer: _policy(layer).sparse or _policy(layer).exact,
        "with cache={cache}, which picks no checkpoints",
        "cache='sparse'",
    ),
    "evict": Use(lambda layer: layer.bounded, "without a budget for checkpoints", "max_checkpoints or max_bytes"),
    "checkpoint_dtype": Use(
        lambda layer: _policy(layer).keeps or _policy(layer).exact,
        "with cache={cache}, which keeps no checkpoints",
        "a cache that keeps checkpoints, for example cache='gated'",
    ),
    "cut_at": Use(
        lambda layer: layer.content and _policy(layer).keeps,
        "with segments={segments} and cache={cache}, where no text ends a segment",
        "segments='content' with a cache that keeps checkpoints",
    ),
    "segments": Use(
        lambda layer: layer.content and _policy(layer).keeps,
        "with cache={cache}, which keeps no checkpoints, so that cuts have no effect",
        "a cache that keeps checkpoints, for example cache='gated'",
        ("content",),  # presets set "logarithmic"
    ),
    "compress": Use(
        lambda layer: layer.compress in POOLS and layer.rate > 1,
        "at rate={rate}, where each token is its own mean",
        "rate=2 or more",
        POOLS,
    ),
}
_TURNS = Use(lambda layer: layer.position == "rope", "with position={position}, which rotates nothing", "position='rope'")
EXACT = {  # keys of window and full attention, in layers of every kind
    "rope_theta": _TURNS,
    "rope_scaling": _TURNS,
    "qk_norm_eps": Use(lambda layer: bool(layer.qk_norm), "with qk_norm={qk_norm}", "qk_norm=True"),
}
NAMED = ("cache", "segments", "rate", "position", "qk_norm")
OF_DEMO = "router_dim"  # the shipped model sets it; its configuration must stay valid with any other cache


def check_layer(layer: LayerConfig) -> None:
    """Raise ConfigError for an unused key of a single layer (`MemoryCaching`)."""
    require(
        layer.routing == "own",
        "routing='shared' uses the routing of an earlier memory layer, and a single layer has no earlier one; "
        "set routing='own' (the default)",
    )
    default = defaults(layer)
    _check({key: (value, default[key]) for key, value in flat(layer).items()}, [layer], USES | EXACT)


def check_model(cfg: Blocks) -> None:
    """Raise ConfigError for an unused key of a model, or of a block."""
    default = defaults(cfg)
    for block, keys in cfg.layers.items():
        layer, owner = cfg.layer_configs[int(block)], f"layers[{block!r}]: "
        _check({key: (value, default[key]) for key, value in keys.items()}, [layer], USES | EXACT, owner)
        shares_routing = layer.routing == "shared" and cfg.routing_shared[int(block)]
        require(
            keys.get("routing") != "shared" or shares_routing,
            f"{owner}routing='shared' has no effect, as no memory layer before this block has routing keys; "
            "set routing='own' there",
        )
        require(
            not shares_routing or keys.get("router_dim", default["router_dim"]) == default["router_dim"],
            f"{owner}router_dim={keys.get('router_dim')} has no effect with routing='shared', as the routing keys are those of "
            "an earlier block; leave it out, or set routing='own' there",
        )
    _check({key: (getattr(cfg.layer, key), default[key]) for key in EXACT}, list(cfg.layer_configs), EXACT)
    given = {key: getattr(cfg if key == "cut_at" else cfg.layer, key) for key in USES if key != OF_DEMO}
    if any(value != default[key] for key, value in given.items()) and cfg.memory_layers:
        _check({key: (value, default[key]) for key, value in given.items()}, cfg.memory_layers, USES)
        require(
            cfg.layer.routing == "own" or any(cfg.routing_shared),
            "routing='shared' has no effect, as no layer has an earlier layer with gates whose routing it could use; set "
            "routing='own' (the default), or use at least two memory layers with gates",
        )


def _check(given: dict[str, tuple[Any, Any]], layers: list[LayerConfig], uses: dict[str, Use], owner: str = "") -> None:
    """given: key -> (value, default). None means unset."""
    for key, use in uses.items():
        value, default = given.get(key, (None, None))
        if value is None or value == default or use.values and value not in use.values or any(map(use.by, layers)):
            continue
        found = {name: " or ".join(sorted({repr(getattr(x, name)) for x in layers})) for name in NAMED}
        raise ConfigError(
            f"{owner}{key}={value!r} has no effect {use.none.format(**found)}; set {key}={default!r} (the default), or {use.mend}"
        )
