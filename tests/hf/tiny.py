"""Tiny decoders of transformers with random weights, of every supported kind, and a tokenizer for them."""

from __future__ import annotations

import copy
import json
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from siltstone.hf.library import quiet

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="an optional package: the extra hf", minversion="5.24")

SIZES: dict[str, Any] = dict(
    vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, initializer_range=0.3, pad_token_id=2, bos_token_id=0, eos_token_id=1,
)  # fmt: skip


def rope(kind: str = "default", theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


LLAMA3 = rope("llama3", 500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = rope("yarn", 1000.0, factor=4.0, original_max_position_embeddings=32)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied, wide heads": ("Llama", dict(tie_word_embeddings=True, head_dim=24, rms_norm_eps=1e-3)),
    "llama, one head of keys, biases": ("Llama", dict(num_key_value_heads=1, attention_bias=True, mlp_bias=True)),
    "llama, theta": ("Llama", rope(theta=5e5)),
    "llama, linear": ("Llama", rope("linear", factor=3.0)),
    "llama, llama3": ("Llama", LLAMA3),
    "llama, yarn": ("Llama", YARN),
    "llama, yarn with all parameters": (
        "Llama",
        rope(
            "yarn", 1e4, factor=8.0, original_max_position_embeddings=64, beta_fast=16.0, beta_slow=2.0, truncate=False,
            mscale=0.7, mscale_all_dim=1.1,
        ),
    ),
    "llama, yarn with a factor": ("Llama", rope("yarn", factor=2.0, original_max_position_embeddings=64, attention_factor=1.4)),
    "mistral": ("Mistral", dict(sliding_window=None)),
    "mistral, window": ("Mistral", dict(sliding_window=17, head_dim=16)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen2, some windows": ("Qwen2", dict(use_sliding_window=True, sliding_window=9, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(head_dim=16, rms_norm_eps=1e-3)),
    "qwen3, biases, yarn": ("Qwen3", dict(head_dim=8, attention_bias=True) | YARN),
    "qwen3, window": ("Qwen3", dict(head_dim=8, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                                    use_sliding_window=True, sliding_window=12)),
    "smollm3": ("SmolLM3", dict(no_rope_layers=[1, 0, 0]) | rope(theta=1e4)),
    "smollm3 of its own theta": ("SmolLM3", dict(no_rope_layers=[1, 0, 1])),
    "smollm3, biases, windows": (
        "SmolLM3",
        dict(no_rope_layer_interval=2, use_sliding_window=True, sliding_window=11, attention_bias=True, mlp_bias=True),
    ),
    "olmo2": ("Olmo2", {}),
    "olmo2, biases, tied": ("Olmo2", dict(attention_bias=True, tie_word_embeddings=True, num_key_value_heads=4)),
}  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


@cache
def decoder(kind: str) -> Any:
    """A decoder with random weights, norms and biases too."""
    name, keys = KINDS[kind]
    with quiet(transformers):
        config = getattr(transformers, f"{name}Config")(**SIZES | keys)
    torch.manual_seed(0)
    made = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(torch.randn(p.shape, generator=draw) * (0.3 if p.dim() == 1 else 0.05))
    return made


IDS = torch.randint(300, (2, 150), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def theirs(made: Any, ids: Tensor = IDS) -> Tensor:
    return made(input_ids=ids, use_cache=False).logits


def close(ours: Tensor, want: Tensor, bound: float = 1e-4) -> float:
    """The largest difference, as a share of the largest logit; at most `bound`."""
    share = float((ours - want).abs().max() / want.abs().max())
    assert share <= bound, share
    return share


TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
EOS = {"__type": "AddedToken", "content": "<eos>"} | dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False)
SETTINGS = {"bos_token": "<bos>", "eos_token": EOS, "pad_token": "<pad>", "model_max_length": 512}


@cache
def vocabulary() -> str:
    """The text of a tokenizer.json with 273 ids."""
    import tokenizers as hf

    inner = hf.Tokenizer(hf.models.BPE())
    inner.pre_tokenizer, inner.decoder = hf.pre_tokenizers.ByteLevel(add_prefix_space=False), hf.decoders.ByteLevel()
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<bos>", "<eos>", "<pad>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["the cat and the dog and the rat"] * 3, trainer)
    return inner.to_str()


def saved(kind: str, folder: Path, dtype: torch.dtype | None = None, **how: Any) -> Path:
    """The folder of a decoder, with its tokenizer and chat template."""
    made = decoder(kind)
    if dtype is not None:
        made = copy.deepcopy(made).to(dtype)
    with quiet(transformers):
        made.save_pretrained(folder, **how)
    (folder / "tokenizer.json").write_text(vocabulary(), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS), "utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, "utf-8")
    return folder


def edited(folder: Path, name: str, **changes: Any) -> Path:
    """The folder, with other values in a JSON file; None removes a key."""
    found = json.loads((folder / name).read_text("utf-8")) | changes
    (folder / name).write_text(json.dumps({key: value for key, value in found.items() if value is not None}), "utf-8")
    return folder
