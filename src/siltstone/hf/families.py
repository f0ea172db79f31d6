"""Which decoders of transformers are models of ours, and the parts of others that ours lack, by the names in `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedModel
from ..models.config_file import NAME


@dataclass(frozen=True)
class Family:
    """What a `model_type` has.

    keys        our keys that do not depend on the configuration
    attention   whether `attention_bias` gives biases to all four projections of attention
    mlp         whether `mlp_bias` gives biases to the MLP
    """

    keys: dict[str, Any]
    attention: bool = False
    mlp: bool = False


FAMILIES = {
    "llama": Family({}, attention=True, mlp=True),
    "mistral": Family({}),
    "qwen2": Family({"qkv_bias": True}),
    "qwen3": Family({"qk_norm": True}, attention=True),
    "smollm3": Family({}, attention=True, mlp=True),
    "olmo2": Family({"qk_norm": "all", "norm": "after"}, attention=True),
}


Part = tuple[Callable[[Any], bool], str]


def _set(value: Any) -> bool:
    return value not in (None, False, 0, [], {})


def _unlike(usual: Any) -> Callable[[Any], bool]:
    return lambda value: value is not None and value != usual


# name in config.json -> (whether a value means that the part is there, what is missing)
LACKING: Mapping[str, Part] = (
    dict.fromkeys(
        ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size", "num_experts_per_tok"),
        (_set, "experts"),
    )
    | dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), (_set, "soft caps of logits"))
    | dict.fromkeys(("kv_lora_rank", "q_lora_rank"), (_set, "latent attention"))
    | dict.fromkeys(
        ("embedding_multiplier", "residual_multiplier", "logits_scaling", "attention_multiplier", "logit_scale"),
        (_set, "multipliers of embeddings, residuals or logits"),
    )
    | dict.fromkeys(("vision_config", "audio_config", "text_config"), (_set, "inputs other than text"))
    | dict.fromkeys(("mamba_d_state", "ssm_cfg", "linear_num_key_heads"), (_set, "recurrent layers of their kind"))
    | {
        "quantization_config": (_set, "quantised weights"),
        "partial_rotary_factor": (_unlike(1.0), "rotations of a part of each head"),
        "rotary_pct": (_unlike(1.0), "rotations of a part of each head"),
        "clip_qkv": (_set, "clipped queries, keys and values"),
        "use_parallel_residual": (_set, "parallel residuals"),
        "parallel_attn": (_set, "parallel residuals"),
        "alibi": (_set, "biases of distance in their form"),
        "query_pre_attn_scalar": (_set, "an own scale of queries"),
        "attention_chunk_size": (_set, "attention in chunks"),
        "is_encoder_decoder": (_set, "an encoder"),
        "is_causal": (lambda value: value is False, "attention to later tokens"),
        "use_bidirectional_attention": (_set, "attention to later tokens"),
    }
)


def check_family(config: dict[str, Any], name: str) -> Family:
    """The family of a `config.json`. UnsupportedModel with the name of what is missing. name: of the model, for messages."""
    kind = config.get("model_type")
    if kind == NAME:
        raise UnsupportedModel(f"{name} is a model of Siltstone already: use its attribute lm")
    lacking = sorted({words for key, (has, words) in LACKING.items() if has(config.get(key))})
    known = f"supported are {', '.join(FAMILIES)}"
    if isinstance(kind, str) and kind in FAMILIES and not lacking:
        return FAMILIES[kind]
    if lacking:
        raise UnsupportedModel(f"{name} (model_type {kind!r:.40}) needs {', '.join(lacking)}, which Siltstone lacks; {known}")
    raise UnsupportedModel(f"{name} has the model_type {kind!r:.40}, an architecture that Siltstone lacks; {known}")
