"""GGUF files are read through transformers, weights and tokenizer: here one that holds a tiny decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.hf import export, import_run
from siltstone.hf.library import quiet

from . import tiny
from .test_runs import same_bits, stored
from .tiny import IDS, close, theirs, transformers

gguf = pytest.importorskip("gguf", reason="an optional package: the extra hf")
pytest.importorskip("accelerate", reason="an optional package: the extra hf")
PARTS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
PARTS |= {f"attn_{x}": f"self_attn.{x}_proj" for x in "qkv"} | {f"ffn_{x}": f"mlp.{x}_proj" for x in ("gate", "up", "down")}


def interleaved(x: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order of GGUF files: pairs of channels are neighbours."""
    return x.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def written(path: Path, kind: Any) -> Path:
    """The decoder "llama" as a GGUF file, its matrices in a type of GGUF."""
    made = tiny.decoder("llama")
    config, weights = made.config, made.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(300)
    model = json.loads(tiny.vocabulary())["model"]
    names = sorted(model["vocab"], key=model["vocab"].get)
    names += [f"<unused{i}>" for i in range(300 - len(names))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types([3 if i < 3 or name.startswith("<unused") else 1 for i, name in enumerate(names)])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(2)
    writer.add_chat_template(tiny.TEMPLATE)
    found = {"token_embd.weight": weights["model.embed_tokens.weight"], "output.weight": weights["lm_head.weight"]}
    found["output_norm.weight"] = weights["model.norm.weight"]
    for i in range(config.num_hidden_layers):
        found |= {f"blk.{i}.{ours}.weight": weights[f"model.layers.{i}.{name}.weight"] for ours, name in PARTS.items()}
        for part, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
            found[f"blk.{i}.attn_{part}.weight"] = interleaved(found[f"blk.{i}.attn_{part}.weight"], heads)
    for name, x in found.items():
        as_ = kind if x.dim() == 2 and x.shape[1] % 32 == 0 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(x.numpy(), as_), raw_dtype=as_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", ["F32", "Q8_0", "Q4_1"])
def test_a_gguf_file(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "tiny.gguf", getattr(gguf.GGMLQuantizationType, kind))
    capfd.readouterr()
    run = import_run(path, tmp_path / "run")
    assert capfd.readouterr() == ("", "")  # no bars
    lm, tok = st.load(run)
    with quiet(transformers):
        made = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
        library = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    with torch.no_grad():
        close(lm(IDS)[0], theirs(made))
        if kind == "F32":
            close(lm(IDS)[0], theirs(tiny.decoder("llama")))
    text = "the cat and  the dog\n1234 é"
    assert tok.encode(text) == library.encode(text, add_special_tokens=False) and tok.decode(tok.encode(text)) == text
    assert (tok.bos_id, tok.eos_id, getattr(tok, "chat_template", "")) == (0, 1, tiny.TEMPLATE)
    back = export(run, tmp_path / "back")
    same_bits({name: x.contiguous() for name, x in made.state_dict().items()}, stored(back))
    assert torch.equal(theirs(transformers.AutoModelForCausalLM.from_pretrained(back)), theirs(made))


def test_a_folder_with_one_gguf_file(tmp_path: Path) -> None:
    written(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.F32)
    lm, _ = st.from_hf(tmp_path)
    with torch.no_grad():
        close(lm(IDS)[0], theirs(tiny.decoder("llama")))
    (tmp_path / "tiny.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:2000])
    with pytest.raises(st.errors.UnsupportedModel, match="tiny.gguf"):
        st.from_hf(tmp_path)
