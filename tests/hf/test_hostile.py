"""Strangers' files: pretrained models and run folders with values that make no sense give errors of ours, or are harmless.

The kinds of fault: raw exceptions, memory taken before shapes are compared, paths out of a folder, a model completed at random,
a folder that is a mixture of two models.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import siltstone as st
from siltstone.errors import CheckpointError, InUse, SiltstoneError, StorageError
from siltstone.hf import export, from_hf, import_run
from siltstone.hf.exporting import FILES
from siltstone.hf.importing import RECORD
from siltstone.io import claim
from siltstone.models.checkpoint import read_beside, save

from .tiny import edited, saved

ODD: list[Any] = [0, -1, 1.5, True, "x", [], {}, [1], {"a": 1}, 10**9, 10**18, 2**63, -(2**63), 1e308, "\x1b[2J"]
KEYS = (
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size", "vocab_size",
    "head_dim", "rms_norm_eps", "hidden_act", "rope_parameters", "layer_types", "tie_word_embeddings", "attention_bias",
    "eos_token_id",
)  # fmt: skip
YARN: dict[str, Any] = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
ROTATIONS: list[Any] = [
    {"rope_type": ["x"]}, {"rope_type": {"x": 1}}, {"rope_type": "default", "rope_theta": "x"},
    {"rope_type": "linear", "factor": "x"},
    YARN | {"mscale": "x", "mscale_all_dim": 1}, YARN | {"mscale": 1, "mscale_all_dim": -10 / 0.69314718055994531},
    YARN | {"beta_fast": "x"}, YARN | {"original_max_position_embeddings": 0}, YARN | {"factor": -2.0},
]  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("good") / "model")


@pytest.fixture
def copied(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "copy"))


def told(call: Callable[[], object]) -> str:
    """The message of an error of ours, which is short and has no control characters; '' without one."""
    try:
        call()
    except SiltstoneError as error:
        text = str(error).replace("\n", " ")
        assert len(text) < 1000 and text.isprintable(), text
        return text
    return ""


@pytest.mark.parametrize("key", KEYS)
def test_any_value_of_a_key(key: str, copied: Path) -> None:
    before = (copied / "config.json").read_text("utf-8")
    for value in [*ODD, *(ROTATIONS if key == "rope_parameters" else [])]:
        (copied / "config.json").write_text(before, "utf-8")
        edited(copied, "config.json", **{key: value})
        told(lambda: from_hf(copied))


@pytest.mark.parametrize("shape", [(3, 3), (7,), (), (1, 32, 32), (0, 32), (32, 33)])
@pytest.mark.parametrize("part", ["q", "k", "o"])
def test_shapes_are_compared_before_weights_are_joined(part: str, shape: tuple[int, ...], copied: Path) -> None:
    weights, name = load_file(copied / "model.safetensors"), f"model.layers.0.self_attn.{part}_proj.weight"
    save_file(weights | {name: torch.zeros(shape)}, copied / "model.safetensors")
    assert f"{name} (blocks.0.mix" in told(lambda: from_hf(copied))


NAMES = ["../x", "/x", "..", ".", "", "a/b", "a\0b", "x" * 300, "\x1b[2J", "model.safetensors", "config.json", "x.py", "\ud800"]


@pytest.mark.parametrize("name", [*(name for name in NAMES if name != "model.safetensors"), 5, None, ["a"]])
def test_an_index_names_files_of_its_folder(name: Any, copied: Path) -> None:
    places = dict.fromkeys(load_file(copied / "model.safetensors"), "model.safetensors")
    places["model.norm.weight"] = name
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert "index.json is damaged" in told(lambda: from_hf(copied))


@pytest.mark.parametrize("name", NAMES)
def test_a_strangers_run_writes_its_own_files_alone(name: str, good: Path, tmp_path: Path) -> None:
    run = import_run(good, tmp_path / "run")
    record = json.loads(read_beside(run, RECORD) or b"")
    record["files"] |= {name: "x"} if name not in FILES else {"generation_config.json": 5}
    save(*st.load(run), run, beside={RECORD: json.dumps(record).encode()})
    before = {path for path in tmp_path.rglob("*") if "export" not in path.parts}
    assert "is no text file of a pretrained model" in told(lambda: export(run, tmp_path / "export"))
    assert not (tmp_path / "export").exists()
    assert {path for path in tmp_path.rglob("*") if "export" not in path.parts} == before


def test_an_export_never_replaces_its_own_run(good: Path, tmp_path: Path) -> None:
    run = import_run(good, tmp_path / "run")
    (tmp_path / "link").symlink_to(run)
    for folder in (run, tmp_path / "link", run / ".." / "run"):
        with pytest.raises(CheckpointError, match="is the run itself"):
            export(run, folder, overwrite=True)
    st.load(run)


def test_a_replaced_export_keeps_nothing_of_the_other_model(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, plain = import_run(good, tmp_path / "first"), saved("llama", tmp_path / "plain")
    for name in ("chat_template.jinja", "generation_config.json"):
        (plain / name).unlink(missing_ok=True)
    second, target = import_run(plain, tmp_path / "second"), tmp_path / "export"
    export(first, target)
    assert (target / "chat_template.jinja").exists()
    export(second, target, overwrite=True)
    assert not (target / "chat_template.jinja").exists() and from_hf(target)
    written: list[str] = []

    def full(path: Path, *_: Any) -> Any:
        if path.parent == target:
            written.append(path.name)
            raise StorageError("no space")
        raise AssertionError(path)

    monkeypatch.setattr("siltstone.hf.exporting.atomic_file", full)  # the disk is full after the weights
    with pytest.raises(StorageError):
        export(first, target, overwrite=True)
    assert written != ["config.json"] and not (target / "config.json").exists()


def test_the_configuration_is_written_last(good: Path, tmp_path: Path) -> None:
    export(import_run(good, tmp_path / "run"), tmp_path / "export")
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "export").iterdir()}
    assert times["config.json"] == max(times.values()) and len(times) >= 5


def test_one_writer_of_a_folder(good: Path, tmp_path: Path) -> None:
    run = import_run(good, tmp_path / "run")
    for folder, call in ((run, lambda: import_run(good, run)), (tmp_path / "x", lambda: export(run, tmp_path / "x"))):
        folder.mkdir(exist_ok=True)
        with claim(folder), pytest.raises(InUse):
            call()
    st.load(run)


# --- GGUF -------------------------------------------------------------------------------------------------------------------


def number(data: bytes, key: bytes, value: int) -> bytes:
    """The file with another 32-bit number of a key."""
    at = data.index(key) + len(key) + 4
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


LIES: dict[str, Callable[[bytes], bytes]] = {
    "no tensors": lambda data: data[:8] + bytes(8) + data[16:],
    "one tensor": lambda data: data[:8] + struct.pack("<Q", 1) + data[16:],
    "fewer blocks": lambda data: number(data, b"llama.block_count", 1),
    "more blocks": lambda data: number(data, b"llama.block_count", 7),
    "a million blocks": lambda data: number(data, b"llama.block_count", 10**6),
    "wider": lambda data: number(data, b"llama.embedding_length", 10**6),
    "no heads": lambda data: number(data, b"llama.attention.head_count", 0),
    "another name": lambda data: data.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"),
    "a name twice": lambda data: data.replace(b"blk.1.attn_q.weight", b"blk.0.attn_q.weight"),
    "a tensor of another size": lambda data: data.replace(b"blk.1.attn_norm.weight" + struct.pack("<IQ", 1, 32),
                                                          b"blk.1.attn_norm.weight" + struct.pack("<IQ", 1, 16)),
    "a tensor outside the file": lambda data: data.replace(b"output_norm.weight" + struct.pack("<IQI", 1, 32, 0),
                                                           b"output_norm.weight" + struct.pack("<IQI", 1, 2**40, 0)),
    "cut": lambda data: data[: len(data) // 2],
    "cut in its header": lambda data: data[:500],
    "empty": lambda data: b"",
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_gguf_file_is_a_whole_model(lie: str, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="an optional package: the extra hf")
    pytest.importorskip("accelerate", reason="an optional package: the extra hf")
    from .test_gguf import written

    path = tmp_path / "model.gguf"
    written(path, gguf.GGMLQuantizationType.F32)
    data = path.read_bytes()
    path.write_bytes(LIES[lie](data))
    assert path.read_bytes() != data
    assert told(lambda: from_hf(path))
