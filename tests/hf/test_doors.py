"""One folder that both loaders read: registration, configuration, weights, tokenizer."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import siltstone as st
from siltstone.errors import CheckpointError, ConfigError, TokenizerError
from siltstone.hf import SiltstoneConfig, SiltstoneForCausalLM, SiltstoneTokenizer, export, import_run

from . import tiny
from .runs import KINDS, folder, loaded, model, tokenizer
from .tiny import IDS, quiet, saved, transformers


def run(code: str) -> str:
    """The output of a new process."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SHOW = "; print('siltstone' in transformers.models.auto.configuration_auto.CONFIG_MAPPING._extra_content)"


@pytest.mark.parametrize("order", ["transformers, siltstone.hf", "siltstone.hf.run.cache, transformers"])
def test_the_import_registers_in_any_order(order: str) -> None:
    """In this process `siltstone.hf` was imported before transformers."""
    assert run(f"import {order}{SHOW}") == "True"


def test_transformers_is_imported_only_when_it_is_needed(tmp_path: Path) -> None:
    """An export works where it is not installed, and nothing is registered then."""
    source = folder(tmp_path / "run", "attention")
    code = (
        "import sys, warnings; warnings.simplefilter('error'); sys.modules['transformers'] = None\n"
        "import siltstone as st, siltstone.hf; from siltstone.cli.entry import main\n"
        "try: st.from_hf('x')\nexcept st.errors.UnsupportedModel as error: print(error)\n"
        f"sys.argv = ['siltstone', 'export', {str(source)!r}, '--hf', {str(tmp_path / 'hf')!r}]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code"
    )
    assert "not installed" in run(code) and (tmp_path / "hf" / "config.json").is_file()


def test_another_version_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from siltstone.hf import registration

    monkeypatch.delitem(sys.modules, registration.CLASSES)
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.0")
    with pytest.warns(UserWarning, match="cannot load run folders: .*4.57.0 is installed"):
        registration.register()


@pytest.mark.parametrize("kind", KINDS)
def test_both_loaders_read_a_folder_and_write_it(kind: str, tmp_path: Path) -> None:
    lm = model(kind)
    theirs = loaded(folder(tmp_path / "ours", kind))
    assert type(theirs) is SiltstoneForCausalLM and theirs.config.cfg == lm.cfg
    assert theirs.state_dict().keys() == lm.state_dict().keys()
    ids = IDS[:, :40] % 256
    with torch.no_grad():
        want = theirs(ids).logits
        theirs.save_pretrained(tmp_path / "theirs")
        tokenizer(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
        again, tok = st.load(tmp_path / "theirs")
        assert again.cfg == lm.cfg and isinstance(tok, st.ByteTokenizer)
        cut = {"cut": ids == 32} if lm.cfg.content else {}
        assert torch.equal(again(ids, **cut)[0], want) and torch.equal(lm(ids, **cut)[0], want)
        assert torch.equal(loaded(tmp_path / "theirs")(ids).logits, want)
    st.save(theirs.lm, tok, tmp_path / "back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (tmp_path / "ours" / "model.safetensors").read_bytes()


def test_our_keys_stand_under_one_name(tmp_path: Path) -> None:
    found = json.loads((folder(tmp_path, top_k=3, cache="sparse") / "config.json").read_text())
    assert (
        found["siltstone"]["top_k"] == 3
        and found["siltstone"]["temperature"] == st.LMConfig.from_dict(dict(vocab_size=9, d_model=8)).layer.temperature
    )
    assert not {"top_k", "temperature", "window"} & found.keys() and found["eos_token_id"] == 257
    made = loaded(tmp_path)
    assert made.config.cfg.layer.top_k == 3 and made.generation_config.top_k in (None, 50)
    assert made.generation_config.eos_token_id == 257 and made.config.hidden_size == 32


def test_flat_files_of_older_folders_are_read(tmp_path: Path) -> None:
    ours = folder(tmp_path)
    text = json.loads((ours / "config.json").read_text())
    weights = load_file(ours / "model.safetensors")
    save_file(weights, ours / "model.safetensors")  # no record of the other files
    (ours / "config.json").write_text(json.dumps(text["siltstone"]))
    assert st.load(ours)[0].cfg == model().cfg


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c | {"windw": 4}, "'windw' is not a key of config.json"),
        (lambda c: c | {"window": 4}, "'window' stands beside 'siltstone'"),
        (lambda c: c | {"siltstone": c["siltstone"] | {"windw": 4}}, "did you mean 'window'"),
        (lambda c: c | {"siltstone": 4}, "must be a mapping"),
    ],
)
def test_unknown_keys_are_refused(change: Any, words: str, tmp_path: Path) -> None:
    ours = folder(tmp_path)
    text = json.loads((ours / "config.json").read_text())
    (ours / "config.json").write_text(json.dumps(change(text)))
    with pytest.raises(CheckpointError, match=words):
        st.load(ours)


def test_a_model_of_ours_is_not_imported_again(tmp_path: Path) -> None:
    made = loaded(folder(tmp_path))
    with pytest.raises(st.errors.UnsupportedModel, match="is a model of Siltstone already: use its attribute lm"):
        st.from_hf(made)


def test_configurations() -> None:
    cfg = model().cfg
    config = SiltstoneConfig.of(cfg, eos_token_id=[1, 2])
    assert SiltstoneConfig.from_dict(config.to_dict()).cfg == cfg
    with pytest.raises(ConfigError, match="'window' is a key of the model"):
        SiltstoneConfig(siltstone=cfg.to_dict(), window=3)
    with pytest.raises(ConfigError, match="no keys of a model"):
        SiltstoneForCausalLM(SiltstoneConfig())
    torch.manual_seed(3)
    made = transformers.AutoModelForCausalLM.from_config(config)
    torch.manual_seed(3)
    for name, x in st.LM(cfg).state_dict().items():
        assert torch.equal(made.state_dict()[name], x), name  # drawn as ours are


def test_weights_that_do_not_fit_are_never_drawn_at_random(tmp_path: Path) -> None:
    ours = folder(tmp_path)
    weights = load_file(ours / "model.safetensors")
    without = {name: x for name, x in weights.items() if name != "norm.weight"}
    for changed, words in (
        (without, "lacks the weights norm.weight"),
        (weights | {"more": torch.ones(2)}, "does not have: more"),
    ):
        save_file(changed, ours / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=words):
            loaded(ours)


def test_the_model_that_ships(tmp_path: Path) -> None:
    """A model in memory is shared, not copied; saved again, its folder is read by both loaders."""
    lm, ours = st.load(st.demo_run())
    made = SiltstoneForCausalLM.of(lm, eos_token_id=ours.eos_id)
    assert all(a is b for a, b in zip(made.parameters(), lm.parameters(), strict=True)) and made.device.type == "cpu"
    tok = SiltstoneTokenizer(tokenizer=ours)
    text = "My fellow Americans,\n"
    session = st.Session(lm, ours)
    session.append(text)
    said = "".join(session.generate(16, temperature=0))
    given = tok(text, return_tensors="pt")
    assert given.input_ids[0].tolist() == ours.encode(text)
    out = made.generate(**given, max_new_tokens=16, do_sample=False)
    assert tok.decode(out[0, given.input_ids.shape[1] :]) == said
    st.save(lm, ours, tmp_path)
    assert torch.equal(loaded(tmp_path).generate(**given, max_new_tokens=16, do_sample=False), out)
    assert tokenizer(tmp_path)(text).input_ids == ours.encode(text)
    with pytest.raises(st.errors.InputError, match="must be an st.LM"):
        SiltstoneForCausalLM.of(made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    made = loaded(folder(tmp_path), dtype=dtype)
    assert {p.dtype for p in made.parameters()} == {dtype} and made.lm.like.dtype == dtype
    with torch.no_grad():
        out = made.generate(IDS[:1, :9] % 256, max_new_tokens=12, do_sample=False)
        want = model().to(dtype)(IDS[:1, :9] % 256)[0]
        assert torch.equal(made(IDS[:1, :9] % 256).logits, want) and out.shape[1] > 9


def test_a_copy_has_weights_of_its_own(tmp_path: Path) -> None:
    made = loaded(folder(tmp_path))
    twin, ids = copy.deepcopy(made), IDS[:, :20] % 256
    with torch.no_grad():
        before = made(ids).logits
        for p in twin.parameters():
            p.zero_()
        assert torch.equal(made(ids).logits, before) and not twin(ids).logits.any() and not twin.lm(ids)[0].any()


@pytest.mark.parametrize("tie", [True, False])
def test_the_vocabulary_grows(tie: bool, tmp_path: Path) -> None:
    made = loaded(folder(tmp_path / "run", tie=tie))
    ids = IDS[:, :30] % 256
    with torch.no_grad():
        before = made(ids).logits
        made.resize_token_embeddings(270, mean_resizing=False)
        after = made(ids).logits
        assert after.shape[-1] == 270 and torch.equal(after[..., :259], before) and made.lm.cfg.vocab_size == 270
        made(torch.tensor([[269]]))
        made.save_pretrained(tmp_path / "more")
        assert torch.equal(loaded(tmp_path / "more")(ids).logits, after)


def test_the_byte_tokenizer_has_the_same_ids(tmp_path: Path) -> None:
    theirs, ours = tokenizer(folder(tmp_path)), st.ByteTokenizer()
    assert type(theirs) is SiltstoneTokenizer and len(theirs) == 259 and theirs.padding_side == "left"
    for text in ("the cat", " a\n\n b\t", "é€😀 naïve", "".join(map(chr, range(256))), ""):
        assert theirs(text).input_ids == ours.encode(text) and theirs.decode(ours.encode(text)) == text
    assert theirs("a<eos>").input_ids == [97, 257] and theirs.pad_token_id == 258
    assert theirs("a<eos>", split_special_tokens=True).input_ids == ours.encode("a<eos>")
    theirs.add_tokens(["<more>"])
    with pytest.raises(TokenizerError, match="1 tokens were added"):
        theirs.save_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_imported_decoders(kind: str, tmp_path: Path) -> None:
    source = tiny.edited(saved(kind, tmp_path / "hf"), "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
    tiny.edited(source, "generation_config.json", eos_token_id=[1, 7])
    ours = import_run(source, tmp_path / "run")
    made, tok = loaded(ours), tokenizer(ours)
    with torch.no_grad():
        tiny.close(made(IDS).logits, tiny.theirs(tiny.decoder(kind)))
    _, mine = st.load(ours)
    for text in ("the cat and the rat", " x\n\ny", "é😀"):
        assert tok(text).input_ids == mine.encode(text) and tok.decode(mine.encode(text)) == text
    assert made.generation_config.eos_token_id == [1, 7] and not made.config.cfg.content
    assert type(tok) is SiltstoneTokenizer and tok.eos_token_id == mine.eos_id and tok.pad_token_id == mine.pad_id
    talk = [{"role": "user", "content": "the cat"}]
    assert tok.apply_chat_template(talk, tokenize=False) == "<|user|>the cat"
    made.save_pretrained(tmp_path / "later")
    tok.save_pretrained(tmp_path / "later")
    lm, again = st.load(tmp_path / "later")
    assert again.fingerprint == mine.fingerprint and again.eos_id == mine.eos_id
    assert getattr(again, "chat_template", None) == tiny.TEMPLATE
    back = export(tmp_path / "later", tmp_path / "back")
    plain = transformers.AutoModelForCausalLM.from_pretrained(back)
    with torch.no_grad():
        tiny.close(tiny.theirs(plain), tiny.theirs(tiny.decoder(kind)))
    assert json.loads((back / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_imported_windows_generate_as_the_decoder_does(tmp_path: Path) -> None:
    kind = "mistral, window"
    made = loaded(import_run(saved(kind, tmp_path / "hf"), tmp_path / "run"))
    with quiet(transformers):
        want = tiny.decoder(kind).generate(IDS[:1, :20], max_new_tokens=30, do_sample=False, use_cache=True, eos_token_id=None)
        assert torch.equal(made.generate(IDS[:1, :20], max_new_tokens=30, do_sample=False, eos_token_id=None), want)
