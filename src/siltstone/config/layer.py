"""The configuration of one mixing layer, and the checks that configurations share."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import ConfigError
from . import registry

TOLD = 4096  # the largest limit that a message names where the other one was overstepped
WIDEST = 2**16  # of widths and heads, which weights are made for
SEEN = 2**20  # of tokens that are kept one by one, in rings of that size
LONGEST = 2**40  # of tokens, checkpoints and bytes that are only counted


def require(ok: bool, message: str) -> None:
    if not ok:
        raise ConfigError(message)


def one_of(key: str, value: Any, allowed: list[Any]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), [str(a) for a in allowed], 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"{key}={value!r} is not known; choose one of {allowed}{hint}")


def whole(key: str, value: Any, least: int, most: int | None = None) -> None:
    number = isinstance(value, int) and not isinstance(value, bool)
    if not number or value < least or (most is not None and value > most):
        allowed = f"of at most {most:,}" if number and value > least else f"of at least {least}"
        allowed = f"from {least} to {most}" if most is not None and most <= TOLD else allowed
        raise ConfigError(f"{key}={value!r} must be a whole number {allowed}")


def divisors(number: int) -> list[int]:
    """In order."""
    low = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*low, *(number // n for n in low)})


def nearest(given: int, choices: list[int]) -> int:
    """The choice nearest to what was given, of equals the smaller; 1 only where there is no other."""
    return min([n for n in choices if n > 1] or choices, key=lambda n: (abs(n - given), n))


def known(keys: dict[str, Any], names: set[str], owner: str) -> None:
    unknown = sorted((k for k in keys if k not in names), key=str)
    if unknown:
        key = str(unknown[0])
        near = difflib.get_close_matches(key, sorted(names), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {sorted(names)}"
        raise ConfigError(f"{key!r} is not a key of {owner}; {elsewhere(key, keys[unknown[0]], owner) or hint}")


def elsewhere(key: str, value: Any, owner: str) -> str:
    """Where a key that is an option of members', or a key of a whole model, belongs; "" for any other."""
    from . import model as config

    if key in {f.name for f in fields(config.LMConfig)} - {"layer"}:
        if owner != "a layer":
            return f"it is one for all blocks: set {key} beside `layers`"
        return "it is a key of a whole model: use st.LM, with st.presets or st.LMConfig.from_dict"
    for family in registry.FAMILIES:
        owners = [name for name, cls in registry.members(family).items() if key in {f.name for f in fields(cls.Options)}]
        if owners:
            of = " and ".join(f"{family}={name!r}" for name in owners)
            plain = isinstance(value, str | int | float | bool) or value is None
            return f"it is an option of {of}: write {family}_options={json.dumps({key: value if plain else '...'})}"
    return ""


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
    compress_every tokens that leave before the memory is updated, by compress_every / rate writes at once (default: rate)
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
    routing        "own", or "shared": scores are those of the last memory layer before this one with routing keys of its own
    max_checkpoints, max_bytes: the most checkpoints that a row keeps in a layer, or the most bytes they take (not logarithmic)
    evict          what goes when there are too many: the oldest ("age"), the least read ("use"), or two become one ("merge")
    checkpoint_dtype  how checkpoints are kept: "float32" (as the state is), "bfloat16", "int8" (a scale a row)
    memory_options, compress_options, cache_options: options of the update rule's own, of the compressor's, of the policy's
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
    compress_every: int | None = None
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
    def key_heads(self) -> int:
        """J, the heads of keys and values in window and full attention."""
        return self.kv_heads if self.kv_heads is not None else self.heads

    @property
    def delay(self) -> int:
        """How many tokens later than it is seen a token is written."""
        return self.window if self.write_delay == "window" else 0

    @property
    def every(self) -> int:
        """Tokens between two updates of the memory."""
        return self.rate if self.compress_every is None else self.compress_every

    @property
    def group(self) -> int:
        """Writes an update."""
        return self.every // self.rate

    @property
    def updates(self) -> int:
        """Updates a segment."""
        return self.segment // self.every

    @property
    def phases(self) -> int:
        """How many phases a row may have: the updates of a segment."""
        return self.updates

    @property
    def content(self) -> bool:
        """Whether segments end where the caller cuts."""
        return registry.member("segments", self.segments).cuts

    @property
    def subblock(self) -> int:
        """Tokens that one routing summary stands for."""
        return self.segment if self.router == "mean" else int(self.router.removeprefix("subblock:"))

    @property
    def bounded(self) -> bool:
        """Whether there is a budget for checkpoints."""
        return self.max_checkpoints is not None or self.max_bytes is not None

    def __post_init__(self) -> None:
        for key in ("d_model", "heads", "router_dim"):
            whole(key, getattr(self, key), 1, WIDEST)
        for key in ("rate", "segment", "top_k"):
            whole(key, getattr(self, key), 1, LONGEST)
        for key in ("window", "sinks", "short_conv"):
            whole(key, getattr(self, key), 0, SEEN)
        for key in ("head_dim", "value_dim", "kv_heads", "max_checkpoints", "max_bytes", "compress_every"):
            if getattr(self, key) is not None:
                whole(key, getattr(self, key), 1, WIDEST if key in ("head_dim", "value_dim", "kv_heads") else LONGEST)
        if self.head_dim is None and self.d_model % self.heads:
            pairs = 2 if self.position == "rope" and self.window else 1
            fitting = [n for n in divisors(self.d_model) if self.d_model // n % pairs == 0]
            other = f", or heads={nearest(self.heads, fitting)}" if fitting else ""
            raise ConfigError(
                f"d_model={self.d_model} does not divide into heads={self.heads}; set head_dim, for example "
                f"head_dim={max(2, self.d_model // self.heads // 2 * 2)}{other}"
            )
        require(
            self.heads % self.key_heads == 0,
            f"kv_heads={self.kv_heads} does not divide heads={self.heads}; choose one of its divisors {divisors(self.heads)}",
        )
        one_of("position", self.position, ["rope", "alibi", "none"])
        require(isinstance(self.qk_norm, bool), f"qk_norm={self.qk_norm!r} must be true or false")
        require(
            self.short_conv == 0 or 2 <= self.short_conv <= 16,
            f"short_conv={self.short_conv} must be 0 for none, or a width from 2 to 16 tokens",
        )
        registry.member("segments", self.segments)
        one_of("start", self.start, ["restart", "carry"])
        one_of("gate", self.gate, ["softmax", "sigmoid"])
        one_of("gate_distance", self.gate_distance, ["none", "alibi"])
        one_of("routing", self.routing, ["own", "shared"])
        one_of("evict", self.evict, ["age", "use", "merge"])
        one_of("checkpoint_dtype", self.checkpoint_dtype, ["float32", "bfloat16", "int8"])
        require(
            isinstance(self.temperature, int | float)
            and not isinstance(self.temperature, bool)
            and 0 < self.temperature < float("inf"),
            f"temperature={self.temperature!r} must be a number above 0, for example 0.125",
        )
        require(
            self.write_delay == "window" or (self.write_delay == 0 and type(self.write_delay) is int),
            f"write_delay={self.write_delay!r} is not known; choose 'window' or 0",
        )
        require(
            self.position != "rope" or self.window == 0 or self.key_dim % 2 == 0,
            f"head_dim={self.key_dim} is odd, and position='rope' turns pairs; choose an even head_dim, "
            "or position='alibi' or 'none'",
        )
        require(
            self.window > 0 or self.delay == 0 and self.write_delay == 0,
            "window=0 leaves nothing for a write delay to wait for; set write_delay=0, or a window of at least 1",
        )
        require(
            self.window > 0 or self.sinks == 0,
            f"sinks={self.sinks} needs window attention; set a window of at least 1, or sinks=0",
        )
        require(
            self.every % self.rate == 0,
            f"compress_every={self.compress_every} is not a multiple of rate={self.rate}; "
            f"choose compress_every={-(-self.every // self.rate) * self.rate}",
        )
        unit = "rate" if self.compress_every is None else "compress_every"
        require(
            self.write_delay == "window" or self.window >= self.every - 1,
            f"write_delay=0 with {unit}={self.every} needs window >= {self.every - 1}, or tokens of an unfinished "
            f"block would be seen by nobody; window={self.window} was given",
        )
        if self.segment % self.every:
            fitting = [n for n in divisors(self.segment) if n % (1 if self.compress_every is None else self.rate) == 0]
            other = f", or {unit}={nearest(self.every, fitting)}" if fitting else ""
            raise ConfigError(
                f"segment={self.segment} is not a multiple of {unit}={self.every}; "
                f"choose segment={max(1, self.segment // self.every) * self.every}{other}"
            )
        self._check_cache()
        _check_members(self)

    def _check_cache(self) -> None:
        """Routing and budget."""
        name, colon, size = self.router.partition(":") if isinstance(self.router, str) else ("", "", "")
        digits = size.isascii() and size.isdecimal()
        require(
            name != "subblock" or not digits or int(size[:20]) > 0,
            f"router={self.router!r}: m must be at least 1 token, for example router='subblock:8'",
        )
        require(
            self.router == "mean" or name == "subblock" and bool(colon) and digits and len(size) < 10 and int(size) > 0,
            f"router={self.router!r} is not known; choose 'mean', or 'subblock:m' with m tokens, for example 'subblock:8'",
        )
        if self.segment % self.subblock or self.subblock % self.every:
            fitting = [n * self.every for n in divisors(self.updates)]
            better = nearest(self.subblock, fitting[:-1] or fitting)  # the last is the segment itself, as with "mean"
            raise ConfigError(
                f"router={self.router!r}: sub-blocks of {self.subblock} tokens must be whole updates of the memory (every "
                f"{self.every} token{'s' * (self.every > 1)}) and divide a segment (segment={self.segment}); choose another, "
                "for example " + (f"router='subblock:{better}'" if 1 < better < self.segment else "router='mean'")
            )
        if not self.bounded:
            return
        policy = registry.member("cache", self.cache)
        require(
            policy.keeps,
            f"max_checkpoints and max_bytes bound checkpoints, and cache={self.cache!r} keeps none; leave them out, or "
            "set another cache",
        )
        require(
            self.max_checkpoints is None or self.max_bytes is None,
            "max_checkpoints and max_bytes are both given; keep one of them",
        )
        require(
            self.segments != "logarithmic",
            "max_checkpoints and max_bytes bound a bank that grows; logarithmic segments do not: set segments='constant' or "
            "'content', or give no budget",
        )
        require(
            self.evict != "use" or policy.routed,
            f"evict='use' counts how much each checkpoint is read under gates, and cache={self.cache!r} has none; "
            "choose evict='age' or 'merge', or cache='gated'",
        )
        require(
            self.evict != "use" or self.routing == "own",
            "evict='use' keeps other checkpoints in every layer, so that routing='shared' cannot find them; set routing='own', "
            "or evict='age' or 'merge'",
        )

    @classmethod
    def from_keys(cls, keys: dict[str, Any]) -> LayerConfig:
        """A layer of some keys; ConfigError for one that is not a layer's."""
        known(keys, {f.name for f in fields(cls)}, "a layer")
        return cls(**keys)

    def changed(self, keys: dict[str, Any]) -> LayerConfig:
        """A copy with other keys; another member takes its own options' defaults, where none are among them."""
        for family in ("memory", "compress", "cache"):
            if keys.get(family, getattr(self, family)) != getattr(self, family):
                keys = {f"{family}_options": {}} | keys
        return dataclasses.replace(self, **keys)


def _check_members(cfg: LayerConfig) -> None:
    """Check what only the members know: names, options, and combinations that one of them refuses."""
    for family in registry.FAMILIES:
        cls = registry.member(family, getattr(cfg, family))
        cls.check(cfg, registry.options(cls, getattr(cfg, f"{family}_options")))
    registry.member("segments", cfg.segments).check(cfg)
    rule = registry.member("memory", cfg.memory)
    batch = getattr(registry.options(rule, cfg.memory_options), "inner_batch", cfg.group)
    if batch % cfg.group:
        raise ConfigError(
            f"memory_options inner_batch={batch} is not a multiple of the {cfg.group} writes at once that compress_every="
            f"{cfg.compress_every} with rate={cfg.rate} makes; choose inner_batch={-(-batch // cfg.group) * cfg.group}"
        )
    if cfg.bounded and cfg.evict == "merge" and cfg.start == "restart" and not rule.adds_up:
        raise ConfigError(
            f"evict='merge' adds up what restarted segments hold, and states of memory={cfg.memory!r} do not add up; "
            "set evict='age' or 'use', or start='carry'"
        )
