"""Sources that cannot be used: each is refused by the name of what is missing or wrong, and nothing is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import siltstone as st
from siltstone.errors import CheckpointError, InputError, StorageError, TokenizerError, UnsupportedModel
from siltstone.hf import families, import_run
from tests.cli.commands import good, refused

from . import tiny
from .tiny import edited, saved, transformers


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved("llama", tmp_path / "hf")


def refuses(kind: type[Exception], source: Any, *words: str, **more: Any) -> None:
    with pytest.raises(kind) as error:
        st.from_hf(source, **more)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(model_type="mixtral", num_local_experts=8), ["'mixtral'", "experts", "supported are llama, mistral"]),
        (dict(model_type="gemma2", final_logit_softcapping=30.0), ["'gemma2'", "soft caps of logits"]),
        (dict(model_type="bert"), ["'bert'", "an architecture that Siltstone lacks"]),
        (dict(model_type=None), ["model_type None"]),
        (dict(model_type="deepseek_v3", kv_lora_rank=512, n_routed_experts=4), ["experts, latent attention"]),
        (dict(model_type="granite", logits_scaling=8.0), ["multipliers"]),
        (dict(quantization_config={"quant_method": "gptq"}), ["quantised weights"]),
        (dict(partial_rotary_factor=0.5), ["rotations of a part of each head"]),
        (dict(hidden_act="gelu"), ["hidden_act='gelu'", "silu"]),
        (dict(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), ["rope_type='dynamic'", "yarn"]),
        (
            dict(
                rope_parameters={"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4, "rope_theta": 1e4}
            ),
            ["'longrope'"],
        ),
        (
            dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
            ["partial_rotary_factor"],
        ),
        (dict(num_attention_heads=3), ["cannot read"]),
        (dict(attention_bias=True), ["lacks the weights model.layers.0.self_attn"]),
        (dict(num_hidden_layers=2), ["weights that Siltstone lacks: model.layers.2"]),
        (dict(intermediate_size=40), ["blocks.0.mlp", "has shape [48, 32], and [40, 32] is needed"]),
    ],
)
def test_a_configuration_with_something_else(source: Path, changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    edited(source, "config.json", **changes)
    refuses(CheckpointError, source, *words)
    with pytest.raises(CheckpointError):
        import_run(source, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", families.LACKING)
def test_every_part_that_is_missing_is_named(source: Path, key: str) -> None:
    value: Any = False if key == "is_causal" else 0.25
    edited(source, "config.json", **{key: value})
    refuses(UnsupportedModel, source, families.LACKING[key][1])


def test_older_configurations_give_theta_and_scaling_on_their_own(source: Path) -> None:
    old = dict(rope_parameters=None, rope_theta=500.0, rope_scaling={"type": "linear", "factor": 4.0})
    lm, _ = st.from_hf(edited(source, "config.json", **old))
    assert lm.cfg.layer.rope_theta == 500.0 and lm.cfg.layer.rope_scaling == {"type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (lambda f: (f / "model.safetensors").unlink(), CheckpointError, ["has no weights", "model.safetensors.index.json"]),
        (
            lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
            CheckpointError,
            ["pytorch_model.bin", "safetensors"],
        ),
        (lambda f: (f / "config.json").unlink(), CheckpointError, ["has no config.json"]),
        (lambda f: (f / "config.json").write_text("{"), CheckpointError, ["config.json", "damaged"]),
        (lambda f: (f / "config.json").write_text("[]"), CheckpointError, ["config.json", "damaged"]),
        (lambda f: (f / "model.safetensors").write_bytes(b"abc"), CheckpointError, ["model.safetensors", "truncated"]),
        (lambda f: shorten(f / "model.safetensors"), CheckpointError, ["model.safetensors", "truncated"]),
        (lambda f: changed(f, "model.norm.weight", torch.full((32,), torch.nan)), CheckpointError, ["NaN", "norm.weight"]),
        (lambda f: changed(f, "model.norm.weight", torch.ones(32, dtype=torch.int8)), UnsupportedModel, ["quantised"]),
        (lambda f: changed(f, "model.norm.weight", None), CheckpointError, ["lacks the weights model.norm.weight"]),
        (lambda f: changed(f, "score.weight", torch.ones(2, 32)), UnsupportedModel, ["score.weight"]),
        (lambda f: (f / "tokenizer.json").write_text("{"), TokenizerError, ["JSON"]),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), TokenizerError, ["tokenizer_config.json is damaged"]),
        (lambda f: edited(f, "tokenizer_config.json", eos_token="<end>"), TokenizerError, ["'<end>'"]),
        (lambda f: edited(f, "tokenizer.json", model={"type": "WordPiece", "vocab": {}}), TokenizerError, ["'WordPiece'"]),
    ],
)
def test_files_that_are_missing_or_damaged(
    source: Path, damage: Any, kind: type[Exception], words: list[str], tmp_path: Path
) -> None:
    damage(source)
    refuses(kind, source, *words)
    refused(words[0], "import", source, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def changed(folder: Path, name: str, value: torch.Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(name, None)
    save_file(weights if value is None else weights | {name: value}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a": "../b.safetensors"}}, "files of the same folder"),
        ({"weight_map": {"a": "gone.safetensors"}}, "lacks gone.safetensors"),
        ({"weight_map": {"a": "model.safetensors"}}, "lack a, which"),
        ({}, "index.json is damaged"),
    ],
)
def test_an_index_of_shards_that_does_not_fit(source: Path, index: dict[str, Any], words: str) -> None:
    (source / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    refuses(CheckpointError, source, words)


def test_what_is_no_source_at_all(tmp_path: Path, source: Path) -> None:
    refuses(CheckpointError, "HuggingFaceTB/SmolLM2-135M", "neither a folder nor a GGUF file")
    refuses(CheckpointError, tmp_path / "gone.gguf", "is no file")
    refuses(InputError, 7, "source is a int")
    refuses(CheckpointError, st.demo_run(), "run folder of Siltstone already")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).write_bytes(b"GGUF")
    refuses(CheckpointError, tmp_path / "two", "2 GGUF files: name one of them")
    refuses(UnsupportedModel, tmp_path / "two" / "a.gguf", "cannot read", "a.gguf")


def test_a_gguf_file_of_another_kind(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="an optional package: the extra hf")
    writer = gguf.GGUFWriter(tmp_path / "clip.gguf", "clip")
    writer.add_name("a")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refuses(UnsupportedModel, tmp_path / "clip.gguf", "clip")


def test_the_tokenizer_must_be_there_and_fit(source: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.json"
    big.write_text(tiny.vocabulary(), "utf-8")
    lm, tok = st.from_hf(source, tokenizer=st.ByteTokenizer())
    assert isinstance(tok, st.ByteTokenizer) and lm.cfg.vocab_size == 300
    lm, tok = st.from_hf(source, tokenizer=big)
    assert tok is not None and tok.vocab_size == 273
    loaded = transformers.PreTrainedTokenizerFast(tokenizer_file=str(big), eos_token="<pad>", bos_token="<bos>")
    _, tok = st.from_hf(tiny.decoder("llama"), tokenizer=loaded)
    assert tok is not None and (tok.bos_id, tok.eos_id, tok.pad_id) == (0, 2, None)
    refuses(TokenizerError, source, "must be one of", tokenizer=7)
    refuses(TokenizerError, source, "not known", tokenizer=str(tmp_path / "gone.json"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    assert st.from_hf(source)[1] is None
    refused("has no tokenizer; give one", "import", source, "--out", tmp_path / "run")
    good("import", source, "--out", tmp_path / "run", "--tokenizer", big)
    small = saved("llama", tmp_path / "small")
    weights = load_file(small / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:270].clone()
    save_file(weights, small / "model.safetensors")
    refuses(CheckpointError, edited(small, "config.json", vocab_size=270), "273 ids", "vocab_size=270")


def test_the_commands(source: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "parameters in float32" in good("import", source, "-o", run, "--set", "pattern=w", "--set", "window=64").stdout
    assert st.load(run)[0].cfg.pattern == "w"
    refused("has a model already", "import", source, "-o", run)
    found = json.loads(good("import", source, "-o", run, "--overwrite", "--json").stdout)
    assert found["dtypes"] == ["float32"] and found["parameters"] == st.load(run)[0].parameters_count
    assert good("generate", run, "the cat", "--max-new-tokens", "3").stdout
    good("export", run, "--hf", tmp_path / "back")
    refused("has a model already", "export", run, "--hf", tmp_path / "back")
    good("export", run, "--hf", tmp_path / "back", "--overwrite")
    refused("memory layers", "export", "demo", "--hf", tmp_path / "demo")
    refused("lacks config.json", "export", source.parent, "--hf", tmp_path / "demo")


def test_a_place_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", "utf-8")
    with pytest.raises(StorageError):
        import_run(source, tmp_path / "file")
    refused("file", "export", import_run(source, tmp_path / "run"), "--hf", tmp_path / "file")


def test_without_transformers(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["transformers"]
    with monkeypatch.context() as patched:
        patched.setattr(module, "__version__", "5.23.0")
        refuses(UnsupportedModel, source, "5.24 to 5.x, and 5.23.0", "siltstone[hf]")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refuses(UnsupportedModel, source, "not installed", "pip install 'siltstone[hf]'")
