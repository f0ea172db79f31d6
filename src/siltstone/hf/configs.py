"""A configuration of transformers as keys of ours, and keys of ours as a configuration of transformers."""

from __future__ import annotations

import math
from typing import Any

from ..config.model import MOST_BLOCKS, LMConfig
from ..config.rotary import options
from ..errors import SiltstoneError, UnsupportedModel
from ..ops.rope_scaling import KINDS
from ..text.library import quoted
from .families import FAMILIES, Family, check_family

POSITIONS = 131_072  # a model of ours has no limit
SIZES = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size", "vocab_size")
LETTERS = {"full_attention": "a", "sliding_attention": "w"}


def to_keys(config: Any, name: str) -> dict[str, Any]:
    """Our keys for a configuration object of transformers. Raises UnsupportedModel, also for values that make no sense.

    name    of the model, for messages
    """
    family = check_family(config.to_dict(), name)
    whole = {key: getattr(config, key, None) for key in SIZES}
    if odd := [key for key, value in whole.items() if not isinstance(value, int) or isinstance(value, bool) or value < 1]:
        raise UnsupportedModel(f"{name} has {odd[0]}={whole[odd[0]]!r:.40}, which must be a whole number of at least 1")
    if config.num_hidden_layers > MOST_BLOCKS:
        raise UnsupportedModel(f"{name} has {config.num_hidden_layers!r:.40} layers; at most {MOST_BLOCKS:,} are possible")
    try:
        return _keys(config, family, name)
    except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError) as error:
        if isinstance(error, SiltstoneError):
            raise
        raise UnsupportedModel(f"{name} has a configuration with values that make no sense: {quoted(error)}") from error


def _keys(config: Any, family: Family, name: str) -> dict[str, Any]:
    if config.hidden_act not in ("silu", "swish"):
        raise UnsupportedModel(f"{name} has hidden_act={config.hidden_act!r}, and Siltstone's gated MLP has silu alone")
    depth, heads, width = config.num_hidden_layers, config.num_attention_heads, config.hidden_size
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is None:
        kinds = ["full_attention" if window is None else "sliding_attention"] * depth
    if unknown := sorted({str(kind) for kind in kinds if kind not in LETTERS}):
        raise UnsupportedModel(f"{name} has layers of {', '.join(unknown)}, which Siltstone lacks; it has {', '.join(LETTERS)}")
    letters = "".join(LETTERS[kind] for kind in kinds[:depth])
    keys: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "d_model": width,
        "heads": heads,
        "head_dim": getattr(config, "head_dim", None) or width // heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "depth": depth,
        "pattern": _shortest(letters),
        "mlp": "swiglu",
        "mlp_dim": config.intermediate_size,
        "tie": bool(config.tie_word_embeddings),
        "norm_eps": config.rms_norm_eps,
        **family.keys,
    }
    if "w" in letters:
        keys["window"] = window
    if family.attention and getattr(config, "attention_bias", False):
        keys |= {"qkv_bias": True, "out_bias": True}
    if family.mlp and getattr(config, "mlp_bias", False):
        keys["mlp_bias"] = True
    if keys.get("qk_norm"):
        keys["qk_norm_eps"] = config.rms_norm_eps
    rotary = (getattr(config, "no_rope_layers", None) or [1] * depth)[:depth]
    if not any(rotary):
        return keys | {"position": "none"}
    still = {str(i): {"position": "none"} for i, turns in enumerate(rotary) if not turns}
    return keys | _rotary(config, name) | ({"layers": still} if still else {})


def _shortest(letters: str) -> str:
    """The shortest pattern that gives these letters when it is repeated."""
    for size in range(1, len(letters)):
        if all(letter == letters[i % size] for i, letter in enumerate(letters)):
            return letters[:size]
    return letters


def _rotary(config: Any, name: str) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling`."""
    given = dict(config.rope_parameters or {})
    if any(isinstance(value, dict) for value in given.values()):
        raise UnsupportedModel(f"{name} has other rotations in each kind of layer ({', '.join(given)}), which Siltstone lacks")
    kind, theta = given.get("rope_type", given.get("type", "default")), given.get("rope_theta")
    if given.get("partial_rotary_factor") not in (None, 1.0):
        raise UnsupportedModel(
            f"{name} has partial_rotary_factor={given['partial_rotary_factor']!r}: Siltstone rotates whole heads"
        )
    if theta is None:
        theta = getattr(config, "default_theta", 10000.0)
    if kind == "default":
        return {"rope_theta": float(theta)}
    if kind not in KINDS:
        raise UnsupportedModel(
            f"{name} has rope_type={kind!r:.40}, a scaling of rotations that Siltstone lacks; it has default, {', '.join(KINDS)}"
        )
    if kind == "yarn":
        given = _yarn(config, given)
    scaling = {key: given[key] for key in options(kind) if given.get(key) is not None}
    return {"rope_theta": float(theta), "rope_scaling": {"type": kind, **scaling}}


def _yarn(config: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters with factor and attention factor as numbers, as transformers computes them."""
    length = given["original_max_position_embeddings"]
    factor = given.get("factor") or config.max_position_embeddings / length

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention, one, all_ = (given.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is None:
        attention = magnitude(one) / magnitude(all_) if one and all_ else magnitude(1)
    fast, slow = given.get("beta_fast") or 32, given.get("beta_slow") or 1
    return given | {"factor": factor, "attention_factor": attention, "beta_fast": fast, "beta_slow": slow}


def from_keys(cfg: LMConfig) -> dict[str, Any]:
    """The `config.json` of transformers for a plain decoder of ours. UnsupportedModel names what transformers' decoders lack."""
    layer, letters = cfg.layer, [cfg.letters[i % len(cfg.letters)] for i in range(cfg.depth)]
    still = [i for i, one in enumerate(cfg.layer_configs) if one.position == "none"]
    kind = _model_type(cfg, letters, still)
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": cfg.vocab_size,
        "hidden_size": layer.d_model,
        "intermediate_size": cfg.hidden,
        "num_hidden_layers": cfg.depth,
        "num_attention_heads": layer.heads,
        "num_key_value_heads": layer.key_heads,
        "head_dim": layer.key_dim,
        "hidden_act": "silu",
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tie,
        "rope_parameters": {"rope_theta": layer.rope_theta, "rope_type": layer.rope_scaling.get("type", "default")}
        | {key: value for key, value in layer.rope_scaling.items() if key != "type"},
        "attention_bias": layer.out_bias,
    }
    if FAMILIES[kind].mlp:
        config["mlp_bias"] = cfg.mlp_bias
    if kind == "mistral":
        config["sliding_window"] = layer.window
    elif "w" in letters:
        config |= {"use_sliding_window": True, "sliding_window": layer.window, "max_window_layers": 0}
        config["layer_types"] = ["sliding_attention" if letter == "w" else "full_attention" for letter in letters]
    if kind == "smollm3":
        config["no_rope_layers"] = [int(i not in still) for i in range(cfg.depth)]
    return config


ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}


def _model_type(cfg: LMConfig, letters: list[str], still: list[int]) -> str:
    """The family that has what a model has. Raises UnsupportedModel."""
    layer = cfg.layer
    differ = {key for keys in cfg.layers.values() for key in keys} - {"position"}
    for holds, words in (
        ("m" in letters, "memory layers (m)"),
        (cfg.mlp != "swiglu", f"mlp={cfg.mlp!r}"),
        (layer.position == "alibi" or any(one.position == "alibi" for one in cfg.layer_configs), "position='alibi'"),
        (layer.sinks > 0 and "w" in letters, f"sinks={layer.sinks}"),
        (layer.short_conv > 0, f"short_conv={layer.short_conv}"),
        (layer.val_dim != layer.key_dim, f"value_dim={layer.value_dim}"),
        (bool(differ), f"blocks that differ in {', '.join(sorted(differ))}"),
        (
            bool(layer.qk_norm) and layer.qk_norm_eps != cfg.norm_eps,
            f"qk_norm_eps={layer.qk_norm_eps} beside norm_eps={cfg.norm_eps}",
        ),
    ):
        if holds:
            raise UnsupportedModel(f"the model has {words}, which no plain decoder of transformers has; it cannot be exported")
    own = (layer.qk_norm, cfg.norm, layer.qkv_bias, layer.out_bias, cfg.mlp_bias)
    windows, biases = "w" in letters, layer.qkv_bias or layer.out_bias or cfg.mlp_bias
    if own == (False, "before", True, False, False) and not still:
        return "qwen2"
    if layer.qkv_bias == layer.out_bias:
        if layer.qk_norm == "all" and cfg.norm == "after" and not (still or windows or cfg.mlp_bias):
            return "olmo2"
        if layer.qk_norm is True and cfg.norm == "before" and not (still or cfg.mlp_bias):
            return "qwen3"
        if not layer.qk_norm and cfg.norm == "before":
            if set(letters) == {"w"} and not (still or biases):
                return "mistral"
            return "smollm3" if still or windows else "llama"
    raise UnsupportedModel(
        f"no decoder of transformers has qk_norm={layer.qk_norm!r}, norm={cfg.norm!r}, qkv_bias={layer.qkv_bias}, "
        f"out_bias={layer.out_bias}, mlp_bias={cfg.mlp_bias} and pattern={cfg.pattern!r} together; it cannot be exported"
    )
