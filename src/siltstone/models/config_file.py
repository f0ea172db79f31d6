"""`config.json` of a run folder: our keys under the name `siltstone`, beside the few keys that transformers reads.

`siltstone.hf` makes transformers load the same folder. Our keys have a name of their own, because transformers takes flat keys
such as `temperature` and `top_k` for parameters of generation. Older folders have our keys alone, flat.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from ..config.checks import known
from ..config.layer import LayerConfig
from ..config.model import LMConfig
from ..errors import ConfigError, TokenizerError
from ..text import Tokenizer, cut_table
from ..text.settings import ROLES

NAME, CLASS = "siltstone", "SiltstoneForCausalLM"
CUTS = "cut_token_ids"  # tokens that end a segment; only with segments=content
THEIRS = {
    "model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "tie_word_embeddings",
    "bos_token_id", "eos_token_id", "pad_token_id", "tokenizer_class", "return_dict", "output_hidden_states", "output_attentions",
    "chunk_size_feed_forward", "is_encoder_decoder", "id2label", "label2id", "problem_type", "name_or_path", "_name_or_path",
}  # fmt: skip
"""Keys that transformers writes. They change nothing that Siltstone computes."""


def config_text(cfg: LMConfig, tokenizer: Tokenizer) -> str:
    """The content of `config.json`."""
    ids: dict[str, Any] = {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ROLES}
    if ends := getattr(tokenizer, "end_ids", ()):
        ids["eos_token_id"] = list(dict.fromkeys(x for x in (tokenizer.eos_id, *ends) if x is not None))
    try:
        table = cut_table(cfg, tokenizer)
    except TokenizerError:  # no token contains `cut_at`: a session refuses the pair
        table = None
    cuts = {} if table is None else {CUTS: table.nonzero()[:, 0].tolist()}
    found = {"model_type": NAME, "architectures": [CLASS], NAME: cfg.to_dict()} | ids | cuts
    return json.dumps(found, indent=1) + "\n"


def keys_of(found: dict[str, Any]) -> dict[str, Any]:
    """Our keys in a parsed `config.json` of either form. Raises ConfigError for unknown keys beside them."""
    if NAME not in found:
        return found
    ours = {f.name for kind in (LMConfig, LayerConfig) for f in fields(kind)}
    if misplaced := sorted(ours & found.keys()):
        raise ConfigError(
            f"{misplaced[0]!r} stands beside {NAME!r}, which has the keys of the model; the file was altered: move the key there"
        )
    known(found, THEIRS | {NAME, CUTS}, "config.json")
    return found[NAME]
