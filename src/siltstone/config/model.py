"""Configuration: two frozen dataclasses, `LayerConfig` (one mixing layer) and `LMConfig` (the model).

On disk and on the command line the keys of both are flat: `{"vocab_size": 512, "window": 64, ...}`,
`--set window=64`. Unknown keys and impossible combinations raise `ConfigError` with the mend.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from ..errors import ConfigError
from . import idle_keys, registry
from .layer import SEEN, LayerConfig, known, one_of, require, whole

EXACT_KEYS = {"heads", "head_dim", "value_dim", "kv_heads", "window", "sinks", "position", "qk_norm", "short_conv", "write_delay"}
KINDS = {"m": "memory", "w": "window", "a": "attention"}
MOST_BLOCKS = 10_000  # checks look at every block, and a file that says more must not keep a process busy


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
    cut_at: str | None = "\n"

    def __post_init__(self) -> None:
        for key in ("vocab_size", "depth"):
            whole(key, getattr(self, key), 1, SEEN if key == "vocab_size" else None)
        require(self.depth <= MOST_BLOCKS, f"depth={self.depth} is more than the {MOST_BLOCKS} blocks that a model may have")
        if self.mlp_dim is not None:
            whole("mlp_dim", self.mlp_dim, 1, SEEN)
        one_of("mlp", self.mlp, ["swiglu", "gelu"])
        require(isinstance(self.tie, bool), f"tie={self.tie!r} must be true or false")
        require(
            self.cut_at is None
            or isinstance(self.cut_at, str)
            and self.cut_at.encode("utf-8", "ignore").decode("utf-8") == self.cut_at != "",
            f"cut_at={self.cut_at!r} must be a text, for example '\\n', or null for no cuts",
        )
        eps = self.norm_eps
        require(
            isinstance(eps, int | float) and not isinstance(eps, bool) and 0 < eps < 1,
            f"norm_eps={eps!r} must be a number between 0 and 1, for example 1e-6",
        )
        letters = self.pattern.replace(" ", "") if isinstance(self.pattern, str) else ""
        require(
            bool(letters) and set(letters) <= set(KINDS),
            f"pattern={self.pattern!r} must be made of the letters m (memory), w (window) and a (attention), which stand "
            "together, with or without spaces, for example 'mmw'",
        )
        require(
            len(letters) <= self.depth,
            f"pattern={self.pattern!r} has {len(letters)} letters, and depth={self.depth} as many blocks; shorten it, or set "
            f"depth={len(letters)}",
        )
        object.__setattr__(self, "layers", self._checked_layers())
        require(
            all(layer.window > 0 for kind, layer in zip(self.kinds, self.layer_configs, strict=True) if kind == "window"),
            "window=0 leaves a window layer (w) with nothing to see; set a window of at least 1, or another pattern",
        )
        if any(layer.routing == "shared" for layer in [self.layer, *self._changed.values()]):
            _ = self.followers
        idle_keys.check_model(self)

    def _checked_layers(self) -> dict[str, dict[str, Any]]:
        """`layers` with text for the numbers of blocks, and without blocks in which nothing differs; ConfigError."""
        given, found, seen = self.layers, {}, {}
        require(
            isinstance(given, dict) and all(isinstance(keys, dict) for keys in given.values()),
            f'layers={given!r} must map numbers of blocks to keys of their layers, for example {{"0": {{"window": 64}}}}',
        )
        names = {f.name for f in fields(LayerConfig)}
        for number, keys in given.items():
            block = str(number)
            require(
                re.fullmatch("-?[0-9]{1,9}", block) is not None and -self.depth <= int(block) < self.depth,
                f"layers has no block {number!r}; number them from 0 to {self.depth - 1}, or backwards from -1 to -{self.depth}",
            )
            at = int(block) % self.depth
            require(at not in seen, f"layers[{block!r}] and layers[{seen.get(at)!r}] are the same block; join them")
            seen[at] = block
            require("d_model" not in keys, f"layers[{block!r}] sets d_model, which is one for all blocks; leave it out there")
            known(keys, names, f"layers[{block!r}]")
            letters = self.pattern.replace(" ", "")
            kind = KINDS[letters[at % len(letters)]]
            without = sorted(keys.keys() - EXACT_KEYS) if kind != "memory" else []
            require(
                not without,
                f"layers[{block!r}] sets {', '.join(without)}, and that block has no memory (it is a {kind} layer); "
                "leave it out, or change pattern",
            )
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
    def rounded(self) -> bool:
        """Whether any checkpoint is sealed in fewer bits, so that it passes no gradient to a later call."""
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
    def followers(self) -> list[bool]:
        """Which blocks take their routing from an earlier one; ConfigError where that one's checkpoints are not theirs."""
        found, lead = [], None
        for i, (kind, layer) in enumerate(zip(self.kinds, self.layer_configs, strict=True)):
            routed = kind == "memory" and registry.member("cache", layer.cache).routed
            found.append(routed and layer.routing == "shared" and lead is not None)
            if found[-1]:
                theirs, ours = (_cuts(x) for x in (self.layer_configs[lead or 0], layer))
                other = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
                require(
                    not other,
                    f"block {i} has routing='shared' with block {lead}, and other values of {', '.join(other)}, so that "
                    "their checkpoints are not of the same tokens; make them equal, or set routing='own' there",
                )
            elif routed:
                lead = i
        return found

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
        known(keys, layer_names | model_names, "the configuration")
        for name in ("vocab_size", "d_model"):
            if name not in keys:
                raise ConfigError(f"the configuration lacks {name!r}")
        layer = LayerConfig(**{k: v for k, v in keys.items() if k in layer_names})
        return cls(layer=layer, **{k: v for k, v in keys.items() if k in model_names})

    def replace(self, **keys: Any) -> LMConfig:
        """A copy with some keys changed, of the model or of its layers: `cfg.replace(window=64, depth=2)`."""
        return LMConfig.from_dict(self.to_dict() | keys)


def _cuts(layer: LayerConfig) -> dict[str, Any]:
    """What decides which tokens a checkpoint stands for."""
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
