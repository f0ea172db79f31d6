"""The configuration of one mixing layer: its keys, and the sizes derived from them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from ..ops.rope import Base
from . import aliases, constraints, registry
from .checks import LONGEST, SEEN, WIDEST, divisors, known, nearest, number_between, whole
from .kinds import EPSILON, Choice, Custom, Flag, Member, Options, Whole, about, check_values, documented, option
from .members import Members, parse
from .rotary import RopeScaling, base

__all__ = ["LONGEST", "SEEN", "WIDEST", "LayerConfig", "divisors", "nearest", "whole"]


ANCHORS = 256  # the most anchor tokens of a router


def _router(value: Any) -> bool:
    name, colon, size = value.partition(":") if isinstance(value, str) else ("", "", "")
    digits = size.isascii() and size.isdecimal() and len(size) < 10
    most = {"subblock": LONGEST, "anchor": ANCHORS}.get(name, 0)
    return value == "mean" or bool(colon) and digits and 0 < int(size) <= most


SHORT = Custom(
    "integer",
    "0 (none), 2 to 16",
    lambda x: isinstance(x, int) and not isinstance(x, bool) and (x == 0 or 2 <= x <= 16),
    "must be 0 for none, or a width from 2 to 16 tokens",
)
DELAY = Custom(
    "string or integer", "`window`, 0", lambda x: x == "window" or type(x) is int and x == 0, "is not known; choose 'window' or 0"
)
ROUTER = Custom(
    "string",
    "`mean`, `subblock:m`, `anchor:m`",
    _router,
    "is not known; choose 'mean'; 'subblock:m', where m must be at least 1 token, for example 'subblock:8'; or 'anchor:m', with "
    f"m from 1 to {ANCHORS} anchor tokens, for example 'anchor:4'",
)
QK_NORM = Custom(
    "boolean or string",
    "`false`, `true`, `all`",
    lambda x: isinstance(x, bool) or x == "all",
    "must be true or false, or 'all' for one norm over all heads",
)
THETA = Custom("number", "above 1", lambda x: number_between(x, 1, math.inf), "must be a number above 1, for example 10000")
TEMPERATURE = Custom("number", "above 0", lambda x: number_between(x, 0, math.inf), "must be a number above 0, for example 0.125")


class Parsed:
    """Holds the parsed members of a configuration; they are not a field."""

    __slots__ = ("members",)
    members: Members


@documented
@dataclass(frozen=True)
class LayerConfig(Parsed):
    """One memory-caching layer. Window keys are ignored when window=0. `members` has the parsed options of its members."""

    d_model: int = field(metadata=about(Whole(1, WIDEST), "D, the width of the layer's input and output"))
    heads: int = option(4, Whole(1, WIDEST), "H, heads of window attention and memory")
    head_dim: int | None = option(None, Whole(1, WIDEST, True), "K, the width of a query or key", "`d_model / heads`")
    value_dim: int | None = option(None, Whole(1, WIDEST, True), "V, the width of a value", "`head_dim`")
    kv_heads: int | None = option(
        None,
        Whole(1, WIDEST, True),
        "J, heads of keys and values in window and full attention, each shared by heads / kv_heads queries",
        "`heads`",
    )
    window: int = option(128, Whole(0, SEEN), "W, tokens of exact attention, including the current one; 0: none")
    sinks: int = option(0, Whole(0, SEEN), "first tokens of a document that always stay visible and are never written")
    position: str = option("rope", Choice("rope", "alibi", "none"), "positions of window and full attention")
    rope_theta: float = option(
        10000.0, THETA, "with `position=rope`: the pairs of channels turn by theta^(-2i / head_dim) radians a token"
    )
    rope_scaling: dict[str, Any] = field(
        default_factory=dict,
        hash=False,
        metadata=about(RopeScaling(), "with `position=rope`: how rotations are slowed down for texts longer than the training's"),
    )
    qk_norm: bool | str = option(
        False, QK_NORM, "RMSNorm on the queries and keys of window and full attention: in each head, or with `all` over all heads"
    )
    qk_norm_eps: float = option(1e-6, EPSILON, "epsilon of `qk_norm`")
    qkv_bias: bool = option(False, Flag(), "queries, keys and values of window and full attention have biases")
    out_bias: bool = option(False, Flag(), "the layer's output projection has a bias")
    short_conv: int = option(0, SHORT, "width in tokens of a causal convolution over the layer's input; 0: none")
    write_delay: str | int = option("window", DELAY, "`window`: a token is written when it leaves the window; 0: at once")
    compress: str = option("identity", Member("compress"), "the compressor: how `rate` tokens become one write")
    rate: int = option(1, Whole(1, LONGEST), "r, tokens a write")
    compress_every: int | None = option(
        None, Whole(1, LONGEST, True), "tokens between two updates of the memory, each of compress_every / rate writes", "`rate`"
    )
    memory: str = option("gated", Member("memory"), "the update rule")
    cache: str = option("gated", Member("cache"), "the caching policy")
    segment: int = option(
        256, Whole(1, LONGEST), "C, written tokens a segment; a checkpoint is sealed at the end of each segment"
    )
    segments: str = option(
        "constant",
        Member("segments"),
        "`constant`: every checkpoint is kept; `logarithmic`: O(log t) checkpoints are kept; `content`: every checkpoint is "
        "kept, and a segment ends at a cut by the caller or after C tokens",
    )
    start: str = option(
        "restart",
        Choice("restart", "carry"),
        "`restart`: a segment begins from the initial state; `carry`: from the previous state",
    )
    gate: str = option(
        "sigmoid", Choice("softmax", "sigmoid"), "weights over checkpoints; with `sigmoid` the online memory always has weight 1"
    )
    top_k: int = option(
        4,
        Whole(1, LONGEST),
        "checkpoints that a token reads with `cache=sparse`; `top_k` of `generate` is a different "
        "option: the number of most probable tokens to sample from",
    )
    temperature: float = option(
        0.125, TEMPERATURE, "initial divisor of a gate's logit (learned, one a head); not the sampling temperature"
    )
    gate_distance: str = option(
        "none", Choice("none", "alibi"), "`alibi`: a gate's logit falls linearly with the distance in segments"
    )
    router: str = option(
        "mean",
        ROUTER,
        "`mean`: a segment's score is that of the mean of its routing keys; `subblock:m`: that of its best block of m tokens; "
        "`anchor:m`: that of its best key of m, which learnt tokens read from its state",
    )
    router_dim: int = option(64, Whole(1, WIDEST), "U, the width of a routing key")
    routing: str = option(
        "own", Choice("own", "shared"), "`shared`: scores come from the nearest earlier memory layer with its own routing keys"
    )
    max_checkpoints: int | None = option(
        None,
        Whole(1, LONGEST, True),
        "maximum number of checkpoints or blocks of a row in a layer",
        "no budget",
    )
    max_bytes: int | None = option(
        None,
        Whole(1, LONGEST, True),
        "maximum number of bytes of a row's checkpoints in a layer, all their tensors included (in float64 up to twice as "
        "many; each cut takes 8 bytes more)",
        "no budget",
    )
    evict: str = option(
        "age",
        Choice("age", "use", "merge"),
        "over budget, the oldest checkpoint or block (`age`) or the least read one (`use`) is dropped, or two checkpoints are "
        "merged (`merge`)",
    )
    checkpoint_dtype: str = option(
        "float32",
        Choice("float32", "bfloat16", "int8"),
        "how checkpoints, or the keys and values of blocks, are stored: in the state's dtype, rounded to bfloat16, or as int8 "
        "codes with a scale a row",
    )
    memory_options: dict[str, Any] = field(
        default_factory=dict, hash=False, metadata=about(Options("memory"), "options of the update rule")
    )
    compress_options: dict[str, Any] = field(
        default_factory=dict, hash=False, metadata=about(Options("compress"), "options of the compressor")
    )
    cache_options: dict[str, Any] = field(
        default_factory=dict, hash=False, metadata=about(Options("cache"), "options of the caching policy")
    )

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

    @cached_property
    def base(self) -> Base:
        """The base of the rotary frequencies."""
        return base(self.rope_theta, self.rope_scaling)

    @cached_property
    def scale(self) -> float:
        """By what the logits of window and full attention are multiplied: 1 / sqrt(K), with yarn also its attention factor^2."""
        return self.key_dim**-0.5 * (self.base.gain if self.position == "rope" else 1.0)

    @property
    def delay(self) -> int:
        """Tokens between reading a token and writing it."""
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
        """Tokens that one routing summary covers."""
        return int(self.router.removeprefix("subblock:")) if self.router.startswith("subblock:") else self.segment

    @property
    def anchors(self) -> int:
        """Anchor tokens that read routing keys from states; 0: keys are those of writes."""
        return int(self.router.removeprefix("anchor:")) if self.router.startswith("anchor:") else 0

    @property
    def bounded(self) -> bool:
        """Whether there is a budget for checkpoints."""
        return self.max_checkpoints is not None or self.max_bytes is not None

    def __post_init__(self) -> None:
        check_values(self)
        members, options = parse(self)
        object.__setattr__(self, "members", members)
        for key, value in options.items():
            object.__setattr__(self, key, value)
        constraints.check(self, constraints.LAYER)
        members.check(self)

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        object.__setattr__(self, "members", parse(self)[0])

    @classmethod
    def from_keys(cls, keys: dict[str, Any]) -> LayerConfig:
        """A layer from its keys; ConfigError for a key that a layer does not have."""
        keys = aliases.options("", None, keys)
        known(keys, {f.name for f in fields(cls)}, "a layer")
        return cls(**keys)

    def changed(self, keys: dict[str, Any]) -> LayerConfig:
        """A copy with other keys. If a member changes and no options are given for it, its options are reset to defaults."""
        for family in ("memory", "compress", "cache"):
            if keys.get(family, getattr(self, family)) != getattr(self, family):
                keys = {f"{family}_options": {}} | keys
        return dataclasses.replace(self, **keys)
