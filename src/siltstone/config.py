"""Configuration: two frozen dataclasses, `LayerConfig` (one mixing layer) and `LMConfig` (the model).

On disk and on the command line the keys of both are flat: `{"vocab_size": 512, "window": 64, ...}`,
`--set window=64`. Unknown keys and impossible combinations raise `ConfigError` with the mend.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass, field, fields
from typing import Any

from .errors import ConfigError

KINDS = {"m": "memory", "w": "window", "a": "attention"}


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def _one_of(key: str, value: Any, allowed: list[Any]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), [str(a) for a in allowed], 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"{key}={value!r} is not known; choose one of {allowed}{hint}")


def _whole(key: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{key}={value!r} must be a whole number of at least {least}")


def _known(keys: dict[str, Any], names: set[str], owner: str) -> None:
    unknown = sorted(str(k) for k in keys if k not in names)
    if unknown:
        near = difflib.get_close_matches(unknown[0], sorted(names), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {sorted(names)}"
        raise ConfigError(f"{unknown[0]!r} is not a key of {owner}; {hint}")


@dataclass(frozen=True)
class LayerConfig:
    """One memory-caching layer.

    d_model        D, the width of the layer's input and output
    heads          H, for window and memory alike
    head_dim       K, width of a query or key (default d_model // heads)
    value_dim      V, width of a value (default head_dim)
    window         W, how many tokens are attended to exactly, the current one included
    sinks          how many first tokens of a text stay visible for ever and are never written
    position       "rope" or "none": positions of the window's attention
    write_delay    "window": a token is written when it leaves the window; 0: at once
    compress       how `rate` tokens become one write
    rate           r, tokens a write
    memory         the update rule
    cache          the caching policy
    segment        C, written tokens a segment (a checkpoint is sealed at each segment's end)
    segments       "constant": every checkpoint is kept; "logarithmic": O(log t) are; "content": every one, and segments end
                   where the caller cuts, or when they have C tokens
    start          "restart": a segment begins from the initial state; "carry": from the last one
    gate           "softmax" or "sigmoid" weights over checkpoints (sigmoid leaves the online memory at 1)
    top_k          checkpoints a token reads with cache="sparse"
    temperature    what a gate's logit is divided by to begin with (learned, one a head)
    gate_distance  "none", or "alibi": a gate's logit falls with the distance to the checkpoint, in segments
    router         "mean": a segment is found by the mean of its routing keys; "subblock:m": by its best m tokens
    router_dim     U, width of a routing key
    routing        "own", or "shared": scores are those of the first memory layer that has routing keys
    max_checkpoints, max_bytes: the most checkpoints that a row keeps in a layer, or the most bytes they take (not logarithmic)
    evict          what goes when there are too many: the oldest ("age"), the least read ("use"), or two become one ("merge")
    checkpoint_dtype  how checkpoints are kept: "float32" (as the state is), "bfloat16", "int8" (a scale a row)
    memory_options, compress_options, cache_options: options of the update rule's own, of the compressor's, of the policy's
    """

    d_model: int
    heads: int = 4
    head_dim: int | None = None
    value_dim: int | None = None
    window: int = 128
    sinks: int = 0
    position: str = "rope"
    write_delay: str | int = "window"
    compress: str = "identity"
    rate: int = 1
    memory: str = "gated"
    cache: str = "gated"
    segment: int = 256
    segments: str = "constant"
    start: str = "restart"
    gate: str = "sigmoid"
    top_k: int = 4
    temperature: float = 0.125
    gate_distance: str = "none"
    router: str = "mean"
    router_dim: int = 64
    routing: str = "own"
    max_checkpoints: int | None = None
    max_bytes: int | None = None
    evict: str = "age"
    checkpoint_dtype: str = "float32"
    memory_options: dict[str, Any] = field(default_factory=dict, hash=False)
    compress_options: dict[str, Any] = field(default_factory=dict, hash=False)
    cache_options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key_dim(self) -> int:
        """K, the width of a query or key."""
        return self.head_dim if self.head_dim is not None else self.d_model // self.heads

    @property
    def val_dim(self) -> int:
        """V, the width of a value."""
        return self.value_dim if self.value_dim is not None else self.key_dim

    @property
    def delay(self) -> int:
        """How many tokens later than it is seen a token is written."""
        return self.window if self.write_delay == "window" else 0

    @property
    def subblock(self) -> int:
        """Tokens that one routing summary stands for."""
        return self.segment if self.router == "mean" else int(self.router.removeprefix("subblock:"))

    @property
    def bounded(self) -> bool:
        """Whether there is a budget for checkpoints."""
        return self.max_checkpoints is not None or self.max_bytes is not None

    def __post_init__(self) -> None:
        for key in ("d_model", "heads", "rate", "segment", "top_k", "router_dim"):
            _whole(key, getattr(self, key), 1)
        for key in ("window", "sinks"):
            _whole(key, getattr(self, key), 0)
        for key in ("head_dim", "value_dim", "max_checkpoints", "max_bytes"):
            if getattr(self, key) is not None:
                _whole(key, getattr(self, key), 1)
        _require(
            self.head_dim is not None or self.d_model % self.heads == 0,
            f"d_model={self.d_model} does not divide into heads={self.heads}; set head_dim, or change one of them",
        )
        _one_of("position", self.position, ["rope", "none"])
        _one_of("segments", self.segments, ["constant", "logarithmic", "content"])
        _one_of("start", self.start, ["restart", "carry"])
        _one_of("gate", self.gate, ["softmax", "sigmoid"])
        _one_of("gate_distance", self.gate_distance, ["none", "alibi"])
        _one_of("routing", self.routing, ["own", "shared"])
        _one_of("evict", self.evict, ["age", "use", "merge"])
        _one_of("checkpoint_dtype", self.checkpoint_dtype, ["float32", "bfloat16", "int8"])
        _require(
            isinstance(self.temperature, int | float)
            and not isinstance(self.temperature, bool)
            and 0 < self.temperature < float("inf"),
            f"temperature={self.temperature!r} must be a number above 0, for example 0.125",
        )
        _require(
            self.write_delay == "window" or (self.write_delay == 0 and not isinstance(self.write_delay, bool)),
            f"write_delay={self.write_delay!r} is not known; choose 'window' or 0",
        )
        _require(
            self.position != "rope" or self.window == 0 or self.key_dim % 2 == 0,
            f"head_dim={self.key_dim} is odd, and position='rope' turns pairs; choose an even head_dim or position='none'",
        )
        _require(
            self.window > 0 or self.delay == 0 and self.write_delay == 0,
            "window=0 leaves nothing for a write delay to wait for; set write_delay=0, or a window of at least 1",
        )
        _require(
            self.window > 0 or self.sinks == 0,
            f"sinks={self.sinks} needs window attention; set a window of at least 1, or sinks=0",
        )
        _require(
            self.write_delay == "window" or self.window >= self.rate - 1,
            f"write_delay=0 with rate={self.rate} needs window >= {self.rate - 1}, or tokens of an unfinished "
            f"block would be seen by nobody; window={self.window} was given",
        )
        _require(
            self.segment % self.rate == 0,
            f"segment={self.segment} is not a multiple of rate={self.rate}; "
            f"choose segment={max(1, self.segment // self.rate) * self.rate}",
        )
        self._check_cache()
        for key in ("memory_options", "compress_options", "cache_options"):
            given = getattr(self, key)
            _require(isinstance(given, dict), f"{key}={given!r} must be a mapping of the member's own options")
        from . import registry

        registry.validate_layer(self)

    def _check_cache(self) -> None:
        """Routing and budget."""
        name, colon, size = self.router.partition(":") if isinstance(self.router, str) else ("", "", "")
        _require(
            self.router == "mean" or name == "subblock" and bool(colon) and size.isdecimal() and int(size) > 0,
            f"router={self.router!r} is not known; choose 'mean', or 'subblock:m' with m tokens, for example 'subblock:8'",
        )
        _require(
            self.segment % self.subblock == 0 and self.subblock % self.rate == 0,
            f"router={self.router!r}: sub-blocks of {self.subblock} tokens must be whole writes (rate={self.rate}) and divide a "
            f"segment (segment={self.segment}); choose another number, for example {self.rate}",
        )
        if not self.bounded:
            return
        _require(
            self.max_checkpoints is None or self.max_bytes is None,
            "max_checkpoints and max_bytes are both given; keep one of them",
        )
        _require(
            self.segments != "logarithmic",
            "max_checkpoints and max_bytes bound a bank that grows; logarithmic segments do not: set segments='constant' or "
            "'content', or give no budget",
        )
        _require(
            self.evict != "use" or self.cache in ("gated", "soup", "sparse"),
            f"evict='use' counts how much each checkpoint is read under gates, and cache={self.cache!r} has none; "
            "choose evict='age' or 'merge', or cache='gated'",
        )
        _require(
            self.evict != "use" or self.routing == "own",
            "evict='use' keeps other checkpoints in every layer, so that routing='shared' cannot find them; set routing='own', "
            "or evict='age' or 'merge'",
        )

    @classmethod
    def from_keys(cls, keys: dict[str, Any]) -> LayerConfig:
        """A layer of some keys; ConfigError for one that is not a layer's."""
        _known(keys, {f.name for f in fields(cls)}, "a layer")
        return cls(**keys)


@dataclass(frozen=True)
class LMConfig:
    """A language model: pre-norm blocks of a mixing layer and an MLP, RMSNorm, tied embeddings.

    vocab_size   number of token ids
    depth        number of blocks
    pattern      one letter a block, repeated to the depth: m = window + memory, w = window only, a = full attention
    mlp          "swiglu" or "gelu"
    mlp_dim      hidden width of the MLP (default: 8/3 d_model for swiglu, 4 d_model for gelu, rounded up to 16)
    tie          the output layer shares the embedding's weights
    norm_eps     epsilon of RMSNorm
    cut_at       with segments="content": sessions and training cut at every token that holds this text (None: at none)
    layer        the keys of every mixing layer
    """

    vocab_size: int
    layer: LayerConfig
    depth: int = 4
    pattern: str = "m"
    mlp: str = "swiglu"
    mlp_dim: int | None = None
    tie: bool = True
    norm_eps: float = 1e-6
    cut_at: str | None = "\n"

    def __post_init__(self) -> None:
        for key in ("vocab_size", "depth"):
            _whole(key, getattr(self, key), 1)
        if self.mlp_dim is not None:
            _whole("mlp_dim", self.mlp_dim, 1)
        _one_of("mlp", self.mlp, ["swiglu", "gelu"])
        _require(isinstance(self.tie, bool), f"tie={self.tie!r} must be true or false")
        _require(
            self.cut_at is None
            or isinstance(self.cut_at, str)
            and self.cut_at.encode("utf-8", "ignore").decode("utf-8") == self.cut_at != "",
            f"cut_at={self.cut_at!r} must be a text, for example '\\n', or null for no cuts",
        )
        eps = self.norm_eps
        _require(
            isinstance(eps, int | float) and not isinstance(eps, bool) and 0 < eps < 1,
            f"norm_eps={eps!r} must be a number between 0 and 1, for example 1e-6",
        )
        letters = self.pattern.replace(" ", "") if isinstance(self.pattern, str) else ""
        _require(
            bool(letters) and set(letters) <= set(KINDS),
            f"pattern={self.pattern!r} must be made of the letters m (memory), w (window) and a (attention), for example 'mmw'",
        )
        _require(len(letters) <= self.depth, f"pattern={self.pattern!r} has more letters than depth={self.depth} has blocks")
        _require(
            self.layer.window > 0 or "w" not in letters,
            "window=0 leaves a window layer (w) with nothing to see; set a window of at least 1, or another pattern",
        )

    @property
    def kinds(self) -> list[str]:
        """What each block mixes with: "memory", "window" or "attention"."""
        letters = self.pattern.replace(" ", "")
        return [KINDS[letters[i % len(letters)]] for i in range(self.depth)]

    @property
    def hidden(self) -> int:
        """Width of the MLP's hidden layer."""
        if self.mlp_dim is not None:
            return self.mlp_dim
        wide = self.layer.d_model * 8 / 3 if self.mlp == "swiglu" else self.layer.d_model * 4
        return -(-int(wide) // 16) * 16

    def to_dict(self) -> dict[str, Any]:
        """All keys, flat, ready for JSON."""
        out = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "layer"}
        return out | dataclasses.asdict(self.layer)

    @classmethod
    def from_dict(cls, keys: dict[str, Any]) -> LMConfig:
        """The inverse of `to_dict`; missing keys take their defaults, unknown ones raise ConfigError."""
        if not isinstance(keys, dict):
            raise ConfigError(f"a configuration must be a mapping of keys to values, and this is {type(keys).__name__}")
        layer_names = {f.name for f in fields(LayerConfig)}
        model_names = {f.name for f in fields(cls)} - {"layer"}
        _known(keys, layer_names | model_names, "the configuration")
        for name in ("vocab_size", "d_model"):
            if name not in keys:
                raise ConfigError(f"the configuration lacks {name!r}")
        layer = LayerConfig(**{k: v for k, v in keys.items() if k in layer_names})
        return cls(layer=layer, **{k: v for k, v in keys.items() if k in model_names})

    def replace(self, **keys: Any) -> LMConfig:
        """A copy with some keys changed, of the model or of its layers: `cfg.replace(window=64, depth=2)`."""
        return LMConfig.from_dict(self.to_dict() | keys)


def parse_setting(text: str) -> tuple[str, Any]:
    """`"window=64"` -> `("window", 64)`; values are JSON, or plain text where they are not."""
    key, eq, value = text.partition("=")
    if not eq or not key:
        raise ConfigError(f"--set {text!r} must look like key=value, for example --set window=64")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value.strip()
