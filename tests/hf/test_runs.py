"""A run folder of a pretrained decoder works like any other; exported again it is the decoder, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import siltstone as st
from siltstone.hf import export, import_run
from siltstone.inference import session

from . import tiny
from .tiny import IDS, close, every_kind, saved, theirs, transformers


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder."""
    return {name: x for file in sorted(folder.glob("*.safetensors")) for name, x in load_file(file).items()}


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape, name
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)), name


def texts(folder: Path) -> dict[str, Any]:
    """The files of a folder without weights; JSON is parsed."""
    files = [x for x in folder.iterdir() if x.suffix in (".json", ".jinja") and "index" not in x.name]
    return {x.name: json.loads(x.read_text("utf-8")) if x.suffix == ".json" else x.read_text("utf-8") for x in files}


@every_kind
def test_there_and_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    source = saved(kind, tmp_path / "hf")
    export(import_run(source, tmp_path / "run"), tmp_path / "back")
    same_bits(stored(source), stored(tmp_path / "back"))
    assert texts(source) == texts(tmp_path / "back")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert torch.equal(theirs(again), theirs(tiny.decoder(kind)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["qwen2", "llama, tied, wide heads"])
def test_weights_keep_their_dtype_and_shards_are_joined(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    source = saved(kind, tmp_path / "hf", dtype, max_shard_size="20KB")
    assert len(list(source.glob("*.safetensors"))) > 2
    run = import_run(source, tmp_path / "run")
    same_bits(stored(source), stored(export(run, tmp_path / "back")))
    assert {x.dtype for x in stored(run).values()} == {dtype}
    lm, _ = st.load(run)
    assert {p.dtype for p in lm.parameters()} == {torch.float32}


def test_dtypes_may_be_mixed_and_a_tied_head_may_be_stored(tmp_path: Path) -> None:
    source = saved("llama, tied, wide heads", tmp_path / "hf")
    weights = load_file(source / "model.safetensors")
    for name in weights:
        kind = torch.bfloat16 if "k_proj" in name or "norm" in name else torch.float16 if "up" in name else torch.float32
        weights[name] = weights[name].to(kind)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(weights, source / "model.safetensors")
    export(import_run(source, tmp_path / "run"), tmp_path / "back")
    del weights["model.layers.0.self_attn.rotary_emb.inv_freq"]  # computed, not learned
    same_bits(weights, stored(tmp_path / "back"))


def test_a_stored_head_that_differs_is_used(tmp_path: Path) -> None:
    source = saved("llama, tied, wide heads", tmp_path / "hf")
    weights = load_file(source / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 2
    save_file(weights, source / "model.safetensors")
    lm, _ = st.from_hf(source)
    assert not lm.cfg.tie
    with torch.no_grad():
        close(lm(IDS)[0], 2 * theirs(tiny.decoder("llama, tied, wide heads")))


@pytest.mark.parametrize("kind", ["llama, yarn", "mistral, window", "qwen3", "smollm3, biases, windows", "olmo2"])
def test_a_run_folder_works_like_any_other(kind: str, tmp_path: Path) -> None:
    run = import_run(saved(kind, tmp_path / "hf"), tmp_path / "run")
    lm, tok = st.load(run)
    with torch.no_grad():
        close(lm(IDS)[0], theirs(tiny.decoder(kind)))
    s = st.Session(lm, tok)
    s.append("the cat and the dog")
    twin = s.fork()
    text = "".join(s.generate(12, temperature=0))
    twin.save(tmp_path / "a.silt")
    again = st.Session.load(tmp_path / "a.silt", *st.load(run))
    assert "".join(again.generate(12, temperature=0)) == text and again.counters.recomputed == 0
    assert torch.equal(again.logits, s.logits)
    more = lm.train()
    loss = more(IDS[:, :30])[0].square().mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in more.parameters())
    st.save(more, tok, tmp_path / "later")  # without what the import recorded
    same_bits(stored(tmp_path / "hf"), stored(export(tmp_path / "later", tmp_path / "back")))
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    close(theirs(found), theirs(tiny.decoder(kind)), 1e-6)


def test_a_generation_ends_at_every_end_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.edited(saved("llama", tmp_path / "hf"), "generation_config.json", eos_token_id=[1, 7])
    lm, tok = st.load(import_run(source, tmp_path / "run"))
    assert tok.eos_id == 1 and getattr(tok, "end_ids", None) == (1, 7)
    for token, read in ((1, 0), (7, 0), (8, 3)):
        s = st.Session(lm, tok)
        s.append("the")
        before = s.position
        monkeypatch.setattr(session, "sample", lambda *_, token=token: token)
        assert bool("".join(s.generate(3))) == bool(read) and s.position == before + read
    export(tmp_path / "run", tmp_path / "back")
    assert texts(source) == texts(tmp_path / "back")


def test_a_model_that_was_loaded_from_a_folder_has_its_tokenizer(tmp_path: Path) -> None:
    source = saved("qwen3", tmp_path / "hf")
    made = transformers.AutoModelForCausalLM.from_pretrained(source)
    lm, tok = st.from_hf(made)
    assert tok is not None and tok.to_json() == tiny.vocabulary() and getattr(tok, "chat_template", "") == tiny.TEMPLATE
    same_bits(stored(source), stored(export(import_run(made, tmp_path / "run"), tmp_path / "back")))
    with torch.no_grad():
        close(lm(IDS)[0], theirs(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")))
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert again.encode("the cat") == tok.encode("the cat") and again.eos_token_id == tok.eos_id
    assert again.chat_template == tiny.TEMPLATE


def test_keys_that_were_changed_are_exported(tmp_path: Path) -> None:
    """A window given to full attention makes a Mistral of a Llama."""
    run = import_run(saved("llama", tmp_path / "hf"), tmp_path / "run", pattern="w", window=20, rope_theta=500)
    back = export(run, tmp_path / "back")
    made = transformers.AutoModelForCausalLM.from_pretrained(back)
    assert made.config.model_type == "mistral" and made.config.sliding_window == 20
    assert made.config.max_position_embeddings == tiny.SIZES["max_position_embeddings"]  # what it was trained for
    assert texts(back).get("generation_config.json") == texts(tmp_path / "hf").get("generation_config.json") is not None
    with torch.no_grad():
        close(st.load(run)[0](IDS)[0], theirs(made))
    same_bits(stored(tmp_path / "hf"), stored(back))
    assert texts(back)["chat_template.jinja"] == tiny.TEMPLATE


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (dict(pattern="ma"), "memory layers"),
        (dict(mlp="gelu"), "mlp='gelu'"),
        (dict(position="alibi"), "alibi"),
        (dict(pattern="w", sinks=2), "sinks=2"),
        (dict(short_conv=3), "short_conv=3"),
        (dict(qk_norm=True), "qk_norm_eps=1e-06 beside norm_eps=1e-05"),
        (dict(norm="after"), "norm='after'"),
        (dict(layers={"0": {"rope_theta": 50.0}}), "blocks that differ in rope_theta"),
    ],
)
def test_models_that_no_decoder_of_transformers_is(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    base: dict[str, Any] = dict(vocab_size=259, d_model=8, heads=2, depth=2, window=4, segment=4, pattern="a", norm_eps=1e-5)
    st.save(st.LM(st.LMConfig.from_dict(base | keys)), st.ByteTokenizer(), tmp_path / "run")
    with pytest.raises(st.errors.UnsupportedModel, match=words):
        export(tmp_path / "run", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_own_transformer_is_a_llama(tmp_path: Path) -> None:
    lm = st.LM(st.LMConfig.from_dict(dict(vocab_size=300, d_model=16, heads=2, depth=2, pattern="a", kv_heads=1)))
    st.save(lm, st.ByteTokenizer(), tmp_path / "run")
    made = transformers.AutoModelForCausalLM.from_pretrained(export(tmp_path / "run", tmp_path / "back"))
    with torch.no_grad():
        close(lm(IDS)[0], theirs(made))
    assert not (tmp_path / "back" / "tokenizer.json").exists()  # bytes have no file of transformers
    with pytest.raises(st.errors.CheckpointError, match="has a model already"):
        export(tmp_path / "run", tmp_path / "back")


def test_a_record_that_was_altered_is_refused(tmp_path: Path) -> None:
    run = import_run(saved("llama", tmp_path / "hf"), tmp_path / "run")
    with safe_open(run / "model.safetensors", "pt") as file:
        assert {*json.loads(file.metadata()["files"])} >= {"pretrained.json", "tokenizer_config.json"}
    for name in ("pretrained.json", "tokenizer_config.json"):
        before = (run / name).read_text("utf-8")
        (run / name).write_text(before + " ", "utf-8")
        with pytest.raises(st.errors.CheckpointError, match=f"{name} .*altered"):
            export(run, tmp_path / "back")
        (run / name).write_text(before, "utf-8")
    export(run, tmp_path / "back")
