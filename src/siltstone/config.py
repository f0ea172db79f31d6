"""Configuration: two frozen dataclasses, `LayerConfig` (one mixing layer) and `LMConfig` (the model).

On disk and on the command line the keys of both are flat: `{"vocab_size": 512, "window": 64, ...}`,
`--set window=64`. Unknown keys and impossible combinations raise `ConfigError` with the mend.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
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
    kv_heads       J, heads of keys and values in window and full attention, each shared by heads // kv_heads queries
                   (default heads)
    window         W, how many tokens are attended to exactly, the current one included
    sinks          how many first tokens of a text stay visible for ever and are never written
    position       "rope", "alibi" or "none": positions of window and full attention
    qk_norm        RMSNorm on the queries and keys of window and full attention
    short_conv     width of a causal convolution over the layer's input, 2 to 16 tokens; 0: none
    write_delay    "window": a token is written when it leaves the window; 0: at once
    compress       how `rate` tokens become one write
    rate           r, tokens a write
    memory         the update rule
    cache          the caching policy
    segment        C, written tokens a segment (a checkpoint is sealed at each segment's end)
    segments       "constant": every checkpoint is kept; "logarithmic": O(log t) are
    start          "restart": a segment begins from the initial state; "carry": from the last one
    gate           "softmax" or "sigmoid" weights over checkpoints (sigmoid leaves the online memory at 1)
    top_k          checkpoints a token reads with cache="sparse"
    router         "mean": a segment's summary is the mean of its routing keys
    router_dim     R, width of a routing key
    memory_options, compress_options: the update rule's own options, and the compressor's
    """

    d_model: int
    heads: int = 4
    head_dim: int | None = None
    value_dim: int | None = None
    kv_heads: int | None = None
    window: int = 128
    sinks: int = 0
    position: str = "rope"
    qk_norm: bool = False
    short_conv: int = 0
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
    router: str = "mean"
    router_dim: int = 64
    memory_options: dict[str, Any] = field(default_factory=dict, hash=False)
    compress_options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def key_dim(self) -> int:
        """K, the width of a query or key."""
        return self.head_dim if self.head_dim is not None else self.d_model // self.heads

    @property
    def val_dim(self) -> int:
        """V, the width of a value."""
        return self.value_dim if self.value_dim is not None else self.key_dim

    @property
    def key_heads(self) -> int:
        """J, the heads of keys and values in window and full attention."""
        return self.kv_heads if self.kv_heads is not None else self.heads

    @property
    def delay(self) -> int:
        """How many tokens later than it is seen a token is written."""
        return self.window if self.write_delay == "window" else 0

    def __post_init__(self) -> None:
        for key in ("d_model", "heads", "rate", "segment", "top_k", "router_dim"):
            _whole(key, getattr(self, key), 1)
        for key in ("window", "sinks", "short_conv"):
            _whole(key, getattr(self, key), 0)
        for key in ("head_dim", "value_dim", "kv_heads"):
            if getattr(self, key) is not None:
                _whole(key, getattr(self, key), 1)
        _require(
            self.head_dim is not None or self.d_model % self.heads == 0,
            f"d_model={self.d_model} does not divide into heads={self.heads}; set head_dim, or change one of them",
        )
        _require(
            self.heads % self.key_heads == 0,
            f"kv_heads={self.kv_heads} does not divide heads={self.heads}; choose a divisor, for example kv_heads=1",
        )
        _one_of("position", self.position, ["rope", "alibi", "none"])
        _require(isinstance(self.qk_norm, bool), f"qk_norm={self.qk_norm!r} must be true or false")
        _require(
            self.short_conv == 0 or 2 <= self.short_conv <= 16,
            f"short_conv={self.short_conv} must be 0 for none, or a width from 2 to 16 tokens",
        )
        _one_of("segments", self.segments, ["constant", "logarithmic"])
        _one_of("start", self.start, ["restart", "carry"])
        _one_of("gate", self.gate, ["softmax", "sigmoid"])
        _one_of("router", self.router, ["mean"])
        _require(
            self.write_delay == "window" or (self.write_delay == 0 and not isinstance(self.write_delay, bool)),
            f"write_delay={self.write_delay!r} is not known; choose 'window' or 0",
        )
        _require(
            self.position != "rope" or self.window == 0 or self.key_dim % 2 == 0,
            f"head_dim={self.key_dim} is odd, and position='rope' turns pairs; choose an even head_dim, "
            "or position='alibi' or 'none'",
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
        for key in ("memory_options", "compress_options"):
            given = getattr(self, key)
            _require(isinstance(given, dict), f"{key}={given!r} must be a mapping of the member's own options")
        from . import registry

        registry.validate_layer(self)

    @classmethod
    def from_keys(cls, keys: dict[str, Any]) -> LayerConfig:
        """A layer of some keys; ConfigError for one that is not a layer's."""
        _known(keys, {f.name for f in fields(cls)}, "a layer")
        return cls(**keys)

    def changed(self, keys: dict[str, Any]) -> LayerConfig:
        """A copy with other keys; another memory or compressor takes its own options' defaults, where none are among them."""
        for family in ("memory", "compress"):
            if keys.get(family, getattr(self, family)) != getattr(self, family):
                keys = {f"{family}_options": {}} | keys
        return dataclasses.replace(self, **keys)


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
    layer        the keys of every mixing layer
    layers       the number of a block (from 0, or from -1 backwards; text, as in JSON) -> keys that differ in its layer
    """

    vocab_size: int
    layer: LayerConfig
    depth: int = 4
    pattern: str = "m"
    mlp: str = "swiglu"
    mlp_dim: int | None = None
    tie: bool = True
    norm_eps: float = 1e-6
    layers: dict[str, dict[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for key in ("vocab_size", "depth"):
            _whole(key, getattr(self, key), 1)
        if self.mlp_dim is not None:
            _whole("mlp_dim", self.mlp_dim, 1)
        _one_of("mlp", self.mlp, ["swiglu", "gelu"])
        _require(isinstance(self.tie, bool), f"tie={self.tie!r} must be true or false")
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
        object.__setattr__(self, "layers", self._checked_layers())
        some = range(min(self.depth, len(letters) * (len(self.layers) + 1)))  # among these every letter has an unchanged block
        _require(
            all(self._changed.get(i, self.layer).window > 0 for i in {*some, *self._changed} if letters[i % len(letters)] == "w"),
            "window=0 leaves a window layer (w) with nothing to see; set a window of at least 1, or another pattern",
        )

    def _checked_layers(self) -> dict[str, dict[str, Any]]:
        """`layers` with text for the numbers of blocks, and without blocks in which nothing differs; ConfigError."""
        given, found, seen = self.layers, {}, {}
        _require(
            isinstance(given, dict) and all(isinstance(keys, dict) for keys in given.values()),
            f'layers={given!r} must map numbers of blocks to keys of their layers, for example {{"0": {{"window": 64}}}}',
        )
        names = {f.name for f in fields(LayerConfig)}
        for number, keys in given.items():
            block = str(number)
            _require(
                re.fullmatch("-?[0-9]{1,9}", block) is not None and -self.depth <= int(block) < self.depth,
                f"layers has no block {number!r}; number them from 0 to {self.depth - 1}, or backwards from -1 to -{self.depth}",
            )
            at = int(block) % self.depth
            _require(at not in seen, f"layers[{block!r}] and layers[{seen.get(at)!r}] are the same block; join them")
            seen[at] = block
            _require("d_model" not in keys, f"layers[{block!r}] sets d_model, which is one for all blocks; leave it out there")
            _known(keys, names, f"layers[{block!r}]")
            try:
                self.layer.changed(keys)
            except ConfigError as error:
                raise ConfigError(f"layers[{block!r}]: {error}") from None
            if keys:
                found[str(int(block))] = dict(keys)
        return found

    @cached_property
    def _changed(self) -> dict[int, LayerConfig]:
        return {int(number) % self.depth: self.layer.changed(keys) for number, keys in self.layers.items()}

    @cached_property
    def layer_configs(self) -> tuple[LayerConfig, ...]:
        """The layer of each block: `layer`, with what `layers` changes."""
        return tuple(self._changed.get(i, self.layer) for i in range(self.depth))

    @property
    def memory_layers(self) -> list[LayerConfig]:
        """The layers of the blocks that have a memory."""
        return [layer for kind, layer in zip(self.kinds, self.layer_configs, strict=True) if kind == "memory"]

    @property
    def phases(self) -> int:
        """How many phases a row may have: the writes of the shortest segment."""
        return min(layer.segment // layer.rate for layer in self.memory_layers or [self.layer])

    @property
    def widest_window(self) -> int:
        """Tokens that the block with the widest window sees exactly."""
        return max(layer.window for layer in self.layer_configs)

    @property
    def differences(self) -> str:
        """What differs in some blocks, for people: "; block 0: memory titans, window 32", or nothing."""
        told = [(n, ", ".join(f"{key} {value}" for key, value in keys.items())) for n, keys in self.layers.items()]
        return "".join(f"; block {number}: {keys}" for number, keys in told)

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
        out = dataclasses.asdict(self)
        return out | out.pop("layer")

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
