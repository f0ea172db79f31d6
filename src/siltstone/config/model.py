"""Configuration: two frozen dataclasses, `LayerConfig` (one mixing layer) and `LMConfig` (the model).

On disk and on the command line the keys of both are flat: `{"vocab_size": 512, "window": 64, ...}`,
`--set window=64`. Unknown keys and invalid combinations raise `ConfigError` with the mend.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from ..errors import ConfigError
from . import aliases, constraints, idle_keys, kinds
from .checks import SEEN, known, require
from .constraints import Constraint
from .keys import overrides
from .kinds import EPSILON, Choice, Custom, Flag, Whole, about, check_values, documented, option
from .layer import LayerConfig
from .registry import FAMILIES

EXACT_KEYS = {
    "heads", "head_dim", "value_dim", "kv_heads", "window", "sinks", "position", "rope_theta", "rope_scaling", "qk_norm",
    "qk_norm_eps", "qkv_bias", "out_bias", "short_conv", "write_delay",
}  # fmt: skip
KINDS = {"m": "memory", "w": "window", "a": "attention"}
MOST_BLOCKS = 10_000  # every block is checked; the limit bounds the time that a damaged or hostile file can take

PATTERN = Custom(
    "string",
    "letters `m`, `w`, `a`",
    lambda x: isinstance(x, str) and bool(x.replace(" ", "")) and set(x.replace(" ", "")) <= set(KINDS),
    "must be made of the letters m (memory), w (window) and a (attention), with or without spaces, for example 'mmw'",
)
CUT_AT = Custom(
    "string or null",
    "any text",
    lambda x: x is None or isinstance(x, str) and x.encode("utf-8", "ignore").decode("utf-8") == x != "",
    "must be a text, for example '\\n', or null for no cuts",
)
BLOCKS = Custom(
    "object",
    "number of a block -> keys",
    lambda x: isinstance(x, dict) and all(isinstance(keys, dict) for keys in x.values()),
    'must map numbers of blocks to keys of their layers, for example {"0": {"window": 64}}',
)
SHAPE = (
    Constraint(
        ("depth",),
        f"`depth` may be at most {MOST_BLOCKS:,}",
        lambda c: c.depth <= MOST_BLOCKS,
        f"depth={{depth}} is more than the {MOST_BLOCKS} blocks that a model may have",
        f"set depth={MOST_BLOCKS} at most",
    ),
    Constraint(
        ("pattern", "depth"),
        "`pattern` may have at most `depth` letters",
        lambda c: len(c.letters) <= c.depth,
        lambda c: f"pattern={c.pattern!r} has {len(c.letters)} letters, more than the depth={c.depth} blocks",
        lambda c: f"shorten it, or set depth={len(c.letters)}",
    ),
)
MODEL = (
    Constraint(
        ("pattern", "window"),
        "a block `w` of `pattern` requires `window >= 1`",
        lambda c: all(layer.window for kind, layer in zip(c.kinds, c.layer_configs, strict=True) if kind == "window"),
        "with window=0 a window layer (w) sees no token",
        "set a window of at least 1, or another pattern",
    ),
)


@documented
@dataclass(frozen=True)
class LMConfig:
    """A language model: blocks of a mixing layer and an MLP, RMSNorm, embeddings.

    `layer` has the keys of every mixing layer; in files and on the command line they are flat, beside the model's own keys.
    """

    vocab_size: int = field(metadata=about(Whole(1, SEEN), "number of token ids"))
    layer: LayerConfig
    depth: int = option(4, Whole(1), "number of blocks")
    pattern: str = option(
        "m", PATTERN, "one letter a block, repeated to the depth: m = window + memory, w = window only, a = full attention"
    )
    mlp: str = option("swiglu", Choice("swiglu", "gelu"), "activation of the MLP")
    mlp_dim: int | None = option(
        None,
        Whole(1, SEEN, True),
        "hidden width of the MLP",
        "`8/3 d_model` for `swiglu`, `4 d_model` for `gelu`, rounded up to a multiple of 16",
    )
    mlp_bias: bool = option(False, Flag(), "the MLP's linear maps have biases")
    norm: str = option(
        "before",
        Choice("before", "after"),
        "`before`: RMSNorm of the inputs of mixing layer and MLP; `after`: of their outputs, before these are added",
    )
    tie: bool = option(True, Flag(), "the output layer shares the embedding's weights")
    norm_eps: float = option(1e-6, EPSILON, "epsilon of RMSNorm")
    layers: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        hash=False,
        metadata=about(
            BLOCKS,
            "keys that differ in single blocks, numbered from 0, or backwards from -1; a block with another `memory`, `compress` "
            "or `cache` has the default options of that member",
        ),
    )
    cut_at: str | None = option(
        "\n", CUT_AT, "with `segments=content`: sessions and training cut at tokens that contain this text; null: none"
    )

    def __post_init__(self) -> None:
        check_values(self)
        constraints.check(self, SHAPE)
        layers, changed = self._checked_layers()
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "_changed", changed)
        constraints.check(self, MODEL)
        if any(layer.routing == "shared" for layer in [self.layer, *changed.values()]):
            _ = self.routing_shared
        idle_keys.check_model(self)

    def _checked_layers(self) -> tuple[dict[str, dict[str, Any]], dict[int, LayerConfig]]:
        """`layers` with block numbers as text and without blocks that change nothing; and the changed layers by number."""
        found, seen, changed = {}, {}, {}
        names = {f.name for f in fields(LayerConfig)}
        for number, given in self.layers.items():
            block, keys = str(number), aliases.options("", None, given)
            require(
                re.fullmatch("-?[0-9]{1,9}", block) is not None and -self.depth <= int(block) < self.depth,
                f"layers has no block {number!r}; number them from 0 to {self.depth - 1}, or backwards from -1 to -{self.depth}",
            )
            at = int(block) % self.depth
            require(at not in seen, f"layers[{block!r}] and layers[{seen.get(at)!r}] are the same block; join them")
            seen[at] = block
            require("d_model" not in keys, f"layers[{block!r}] sets d_model, which all blocks share; leave it out there")
            known(keys, names, f"layers[{block!r}]")
            kind = KINDS[self.letters[at % len(self.letters)]]
            without = sorted(keys.keys() - EXACT_KEYS) if kind != "memory" else []
            require(
                not without,
                f"layers[{block!r}] sets {', '.join(without)}, and that block has no memory (it is a {kind} layer); "
                "leave it out, or change pattern",
            )
            if not keys:
                continue
            try:
                changed[at] = self.layer.changed(keys)
            except ConfigError as error:
                raise ConfigError(f"layers[{block!r}]: {error}") from None
            found[str(int(block))] = {key: getattr(changed[at], key) for key in keys}
        return found, changed

    @property
    def letters(self) -> str:
        """The pattern without spaces."""
        return self.pattern.replace(" ", "")

    @cached_property
    def layer_configs(self) -> tuple[LayerConfig, ...]:
        """The layer of each block: `layer` with the changes of `layers`."""
        changed: dict[int, LayerConfig] = vars(self)["_changed"]
        return tuple(changed.get(i, self.layer) for i in range(self.depth))

    @property
    def memory_layers(self) -> list[LayerConfig]:
        """The layers of the blocks that have a memory."""
        return [layer for kind, layer in zip(self.kinds, self.layer_configs, strict=True) if kind == "memory"]

    @property
    def rounded(self) -> bool:
        """Whether any checkpoint is stored in fewer bits. Such a checkpoint passes no gradient to a later call."""
        return any(layer.checkpoint_dtype != "float32" for layer in self.memory_layers)

    @property
    def phases(self) -> int:
        """How many phases a row may have: the writes of the shortest segment."""
        return min(layer.updates for layer in self.memory_layers or [self.layer])

    @property
    def content(self) -> bool:
        """Whether segments of any block end where the caller cuts."""
        return any(layer.content for layer in self.memory_layers)

    @cached_property
    def routing_shared(self) -> list[bool]:
        """Which blocks use the routing of an earlier block; ConfigError if the two have different checkpoints."""
        found, lead = [], None
        for i, (kind, layer) in enumerate(zip(self.kinds, self.layer_configs, strict=True)):
            routed = kind == "memory" and layer.members.cache.cls.routed
            found.append(routed and layer.routing == "shared" and lead is not None)
            if found[-1]:
                theirs, ours = (_cuts(x) for x in (self.layer_configs[lead or 0], layer))
                other = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
                require(
                    not other,
                    f"block {i} has routing='shared' with block {lead}, and other values of {', '.join(other)}, so that "
                    "their checkpoints do not cover the same tokens; make them equal, or set routing='own' there",
                )
            elif routed:
                lead = i
        return found

    @property
    def widest_window(self) -> int:
        """The largest window of any block, in tokens."""
        return max(layer.window for layer in self.layer_configs)

    @property
    def differences(self) -> str:
        """The keys of `layers` as text: "; block 0: memory titans, window 32", or ""."""
        told = [(n, ", ".join(f"{key} {value}" for key, value in keys.items())) for n, keys in self.layers.items()]
        return "".join(f"; block {number}: {keys}" for number, keys in told)

    @property
    def kinds(self) -> list[str]:
        """The kind of each block: "memory", "window" or "attention"."""
        return [KINDS[self.letters[i % len(self.letters)]] for i in range(self.depth)]

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

    @property
    def fingerprint(self) -> str:
        """The keys that are not at their defaults, under their oldest names, as JSON; fingerprints of models are hashes of it. A
        key that a later version adds or renames does not change it."""
        keys = aliases.older(overrides(self), {family: getattr(self.layer, family) for family in FAMILIES})
        return json.dumps(keys, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, keys: dict[str, Any], stored: bool = False) -> LMConfig:
        """The inverse of `to_dict`; missing keys take their defaults, unknown ones raise ConfigError.

        stored   the keys come from a file that Siltstone wrote: older names of keys give no warning
        """
        if not isinstance(keys, dict):
            raise ConfigError(f"a configuration must be a mapping of keys to values, and this is {type(keys).__name__}")
        keys = aliases.current(keys, warn=not stored)
        layer_names = {f.name for f in fields(LayerConfig)}
        model_names = {f.name for f in fields(cls)} - {"layer"}
        known(keys, layer_names | model_names, "the configuration")
        for name in ("vocab_size", "d_model"):
            if name not in keys:
                raise ConfigError(f"the configuration lacks {name!r}")
        layer = LayerConfig(**{k: v for k, v in keys.items() if k in layer_names})
        return cls(layer=layer, **{k: v for k, v in keys.items() if k in model_names})

    def sized(self, vocab_size: int) -> LMConfig:
        """A copy with another number of token ids. Nothing else depends on it, so that nothing else is checked again."""
        kinds.keys(LMConfig)["vocab_size"].kind.check("vocab_size", vocab_size)
        twin = copy.copy(self)
        object.__setattr__(twin, "vocab_size", vocab_size)
        return twin

    def replace(self, **keys: Any) -> LMConfig:
        """A copy with some keys changed, of the model or of its layers: `cfg.replace(window=64, depth=2)`."""
        return LMConfig.from_dict(self.to_dict() | keys)


def _cuts(layer: LayerConfig) -> dict[str, Any]:
    """The keys that determine which tokens a checkpoint covers."""
    names = [
        "window",
        "write_delay",
        "sinks",
        "rate",
        "compress_every",
        "segment",
        "segments",
        "router",
        "max_checkpoints",
        "max_bytes",
    ]
    if layer.bounded:
        names += ["evict", "start"] if layer.evict == "merge" else ["evict"]
    if layer.max_bytes is not None:
        names += ["memory", "memory_options", "checkpoint_dtype", "heads", "key_dim", "val_dim", "router_dim"]
    return {name: layer.every if name == "compress_every" else getattr(layer, name) for name in names}
