"""A model's folder: saved, loaded, and refused when it is damaged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from siltstone.errors import CheckpointError, ConfigError, InputError, StorageError
from siltstone.inference.session import Session
from siltstone.io import read_tensors, write_tensors
from siltstone.models.checkpoint import load, model_fingerprint, save
from siltstone.models.fingerprint import config_text
from siltstone.models.lm import LM
from siltstone.text import ByteTokenizer, train_bpe

from .conftest import configure


@pytest.fixture
def model() -> LM:
    torch.manual_seed(0)
    return LM(configure(259))


@pytest.fixture
def folder(model: LM, tmp_path: Path) -> Path:
    return save(model, ByteTokenizer(), tmp_path / "deep" / "run")


def test_round_trip(model: LM, folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    random = torch.get_rng_state()
    again, tokenizer = load(folder)
    assert torch.equal(torch.get_rng_state(), random)
    assert again.cfg == model.cfg
    assert not again.training
    assert tokenizer.fingerprint == ByteTokenizer().fingerprint
    for name, x in model.state_dict().items():
        assert torch.equal(x, again.state_dict()[name])
    assert model_fingerprint(again) == model_fingerprint(model)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(model.eval()(ids)[0], again(ids)[0])


def test_the_same_model_gives_the_same_files(model: LM, folder: Path, tmp_path: Path) -> None:
    save(model, ByteTokenizer(), tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_the_fingerprint_sees_weights_and_configuration(model: LM) -> None:
    first = model_fingerprint(model)
    named = {"kv_heads": None, "qk_norm": False, "short_conv": 0, "layers": {"0": {}}}  # keys at their defaults do not count
    named |= {"rope_theta": 1e4, "rope_scaling": {}, "qkv_bias": False, "out_bias": False, "mlp_bias": False, "norm": "before"}
    assert json.loads(config_text(model.cfg.replace(**named))) == json.loads(config_text(model.cfg))
    assert "layers" in config_text(model.cfg.replace(layers={"0": {"window": 4}})) != config_text(model.cfg)
    assert len(first) == len(hashlib.sha256().hexdigest())
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert model_fingerprint(model) != first
    torch.manual_seed(0)
    other = LM(model.cfg.replace(gate="softmax"))
    assert model_fingerprint(other) != first


def test_half_the_bytes(model: LM, folder: Path, tmp_path: Path) -> None:
    half = save(model, ByteTokenizer(), tmp_path / "half", dtype=torch.bfloat16)
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, half)]
    weights = sum(p.numel() for p in model.parameters())
    assert sizes[0] - sizes[1] > 1.5 * weights
    again, _ = load(half)
    for name, x in model.state_dict().items():
        assert again.state_dict()[name].dtype == torch.float32
        assert torch.equal(x.bfloat16().float(), again.state_dict()[name])
    assert next(load(half, dtype=torch.bfloat16)[0].parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_files(folder: Path, name: str, share: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * (len(whole) - 1))])
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_a_flipped_bit_is_noticed(folder: Path) -> None:
    whole = bytearray((folder / "model.safetensors").read_bytes())
    whole[-5] ^= 1
    (folder / "model.safetensors").write_bytes(whole)
    with pytest.raises(CheckpointError, match="altered"):
        load(folder)


def test_nan_weights(model: LM, folder: Path, tmp_path: Path) -> None:
    with torch.no_grad():
        model.get_parameter("norm.weight")[0] = float("nan")
    with pytest.raises(CheckpointError, match="NaN or infinite: norm.weight"):
        save(model, ByteTokenizer(), tmp_path / "nan")
    assert not (tmp_path / "nan").exists()
    tensors, _ = read_tensors(folder / "model.safetensors")
    tensors["norm.weight"][0] = float("inf")
    write_tensors(folder / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match="NaN or infinite: norm.weight"):
        load(folder)


def test_weights_that_do_not_fit(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors, _ = read_tensors(path)
    write_tensors(path, tensors | {"norm.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"norm\.weight has shape \[3\], and the configuration requires \[16\]"):
        load(folder)
    write_tensors(path, {name: x for name, x in tensors.items() if name != "norm.weight"} | {"more": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"lacks norm\.weight and has the unknown more"):
        load(folder)
    write_tensors(path, tensors)  # without a fingerprint, as another program would write it
    load(folder)


def test_a_changed_configuration_is_noticed(folder: Path) -> None:
    path = folder / "config.json"
    keys = json.loads(path.read_text())
    path.write_text(json.dumps(keys | {"gate": "softmax"}))
    with pytest.raises(CheckpointError, match="altered"):
        load(folder)
    path.write_text(json.dumps(keys | {"colour": "red"}))
    with pytest.raises(CheckpointError, match="colour"):
        load(folder)


def test_a_newer_format(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors, about = read_tensors(path)
    write_tensors(path, tensors, about | {"siltstone": "2"})
    with pytest.raises(CheckpointError, match="update Siltstone"):
        load(folder)


def test_a_tokenizer_that_is_too_large(model: LM, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a large vocabulary needs a text with many different words in it, over and over")
    large = train_bpe(tmp_path / "text.txt", 280)
    with pytest.raises(CheckpointError, match="more than the model's vocab_size=259"):
        save(model, large, tmp_path / "other")
    (folder / "tokenizer.json").write_text(large.to_json(), "utf-8")
    with pytest.raises(CheckpointError, match="more than the model's vocab_size=259"):
        load(folder)


def test_a_folder_that_cannot_be_made(model: LM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        save(model, ByteTokenizer(), tmp_path / "file" / "run")


def test_what_is_no_model_or_tokenizer_is_refused(model: LM, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cfg is a dict, and must be an LMConfig; .*from_dict"):
        LM({"vocab_size": 259})  # type: ignore[arg-type]
    for call in (lambda *pair: save(*pair, tmp_path / "run"), Session):
        with pytest.raises(InputError, match=r"tokenizer is a NoneType; give .*st\.ByteTokenizer"):
            call(model, None)
        with pytest.raises(InputError, match=r"model is a dict; give a model such as st\.LM\(cfg\)"):
            call({}, ByteTokenizer())
    assert not (tmp_path / "run").exists()
