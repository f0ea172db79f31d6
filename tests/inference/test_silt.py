"""Session files: the restore law across processes, and everything that can be wrong with a file."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import siltstone as st
from siltstone.config import registry
from siltstone.errors import SessionCorrupt, SessionFileError, SessionMismatch, SessionVersion, StorageError
from siltstone.inference import silt
from siltstone.inference.describe import describe
from siltstone.text import ByteTokenizer

ROOT = Path(__file__).resolve().parents[2]
KINDS: list[dict[str, Any]] = [
    {"cache": "sparse", "top_k": 2, "sinks": 2},
    {"segments": "logarithmic", "memory": "gated_delta", "rate": 2, "compress": "mean"},
    {"segments": "logarithmic", "start": "carry", "memory": "gru", "cache": "gated"},
    {"memory": "deep", "cache": "soup", "write_delay": 0},
    {"cache": "none", "pattern": "mwa", "depth": 3},
    {"segments": "content", "router": "subblock:4", "cut_at": "e"},
    {"cache": "residual"},
    {"cache": "sparse", "top_k": 2, "router": "anchor:2", "segments": "constant"},
    {"cache": "gated", "cache_options": {"exact": 2}},
    {"cache": "exact"},
    {"cache": "blocks", "router": "subblock:2", "top_k": 2, "sinks": 2, "cache_options": {"route_every": 4}},
]


def test_sessions_of_every_policy_are_tried() -> None:
    assert {kind.get("cache", "gated") for kind in KINDS} == registry.members("cache").keys()


def continued(session: st.Session) -> dict[str, torch.Tensor]:
    """What two segments more give, token by token and in one call: logits, state, text."""
    length, out = session.model.cfg.layer.segment, {}
    ids = [(7 * i * i + 3 * i) % 256 for i in range(length)]
    for i, token in enumerate(ids[: length // 2]):
        session.append([token])
        assert session.logits is not None
        out[f"logits.{i}"] = session.logits
    text = "".join(session.generate(length // 2, temperature=1.0))
    out["text"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    out["scores"] = session.append_scored(ids)
    assert session.logits is not None
    return out | {"last": session.logits} | {"state." + k: v for k, v in session._state.tensors().items()}


CHILD = """
import sys, torch, safetensors.torch
sys.path[:0] = {path!r}
torch.set_num_threads(1)
import siltstone as st
from tests.inference.test_silt import continued
for folder in sys.argv[1:]:
    session = st.Session.load(folder + "/a.silt", *st.load(folder))
    assert session.counters.appended == 0 and session.counters.restored == session.position
    safetensors.torch.save_file(continued(session), folder + "/child.safetensors")
    assert session.counters.recomputed == 0
"""


def test_a_new_process_goes_on_bit_for_bit(make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    sessions: dict[str, st.Session] = {}
    for i, keys in enumerate(KINDS):
        folder = str(st.save(make_model(seed=i, **keys), tok, tmp_path / str(i)))
        session = sessions[folder] = st.Session(*st.load(folder))
        session.append("A text that is long enough to fill a window and some segments of memory as well. " * 2)
        session.append("x")
        for _ in session.generate(9, seed=i):  # saved right after sampling, in the middle of a segment
            pass
        session.notes["any"] = {"of": ["the", 1, 2.5, None]}
        session.save(folder + "/a.silt")
        assert st.Session.load(folder + "/a.silt", session.model, session.tokenizer).notes == session.notes
    code = CHILD.format(path=[str(ROOT), str(ROOT / "src")])
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *sessions], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for folder, session in sessions.items():
        here, there = continued(session), safetensors.torch.load_file(folder + "/child.safetensors")
        assert here.keys() == there.keys()
        wrong = [name for name in here if not torch.equal(here[name], there[name])]
        assert not wrong, (KINDS[int(Path(folder).name)], wrong)


@pytest.fixture
def file(session: st.Session, tmp_path: Path) -> Path:
    session.save(tmp_path / "a.silt")
    return tmp_path / "a.silt"


def test_save_and_load(session: st.Session, file: Path, same: Any) -> None:
    loaded = st.Session.load(file, session.model, session.tokenizer)
    assert same(loaded, session) and loaded.counters.restored == session.position
    assert os.listdir(file.parent) == ["a.silt"]
    before = file.read_bytes()
    loaded.save(file)
    assert file.read_bytes() == before


def test_an_empty_session(model: st.LM, tok: ByteTokenizer, tmp_path: Path, same: Any) -> None:
    st.Session(model, tok).save(tmp_path / "a.silt")
    loaded = st.Session.load(tmp_path / "a.silt", model, tok)
    assert loaded.position == 0 and loaded.logits is None and same(loaded, st.Session(model, tok))


def test_saving_leaves_the_session_as_it_was(session: st.Session, file: Path, same: Any) -> None:
    other = st.Session.load(file, session.model, session.tokenizer)
    for s in (session, other):
        for _ in s.generate(10):
            pass
    assert same(session, other)


def test_other_programs_can_read_the_tensors(session: st.Session, file: Path) -> None:
    tensors = safetensors.torch.load_file(file)
    assert torch.equal(tensors["logits"], session.logits)
    assert tensors.keys() == {"sampler", "logits", *("state." + name for name in session._state.tensors())}


def test_a_file_truncated_anywhere(session: st.Session, file: Path) -> None:
    data = file.read_bytes()
    for percent in range(100):
        file.write_bytes(data[: len(data) * percent // 100])
        with pytest.raises(SessionCorrupt, match="a.silt is truncated"):
            st.Session.load(file, session.model, session.tokenizer)


def test_flipped_bits(session: st.Session, file: Path) -> None:
    data, rng = bytearray(file.read_bytes()), random.Random(0)
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*range(64), *rng.sample(range(header * 8), 400), *rng.sample(range(header * 8, len(data) * 8), 100)]
    digits = data.index(b'"sha256":"') * 8
    for bit in [*places, *range(digits, digits + 8 * 75, 5)]:
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        with pytest.raises(SessionCorrupt) as error:
            st.Session.load(file, session.model, session.tokenizer)
        assert "a.silt" in str(error.value)
        data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    assert st.Session.load(file, session.model, session.tokenizer).position == session.position


@pytest.mark.parametrize(
    "data",
    [b"", b"SILT", b"\0" * 4096, b"\xff" * 4096, (2**63).to_bytes(8, "little") + b"{}", b"PK\3\4" + b"a" * 999],
    ids=["empty", "four bytes", "zeros", "ones", "huge header", "archive"],
)
def test_no_session_file_at_all(session: st.Session, file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(SessionCorrupt):
        st.Session.load(file, session.model, session.tokenizer)


def test_bytes_behind_the_end(session: st.Session, file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(SessionCorrupt, match="after its end"):
        st.Session.load(file, session.model, session.tokenizer)


def test_a_model_is_no_session(session: st.Session, run: Path) -> None:
    with pytest.raises(SessionCorrupt, match="not a session file"):
        st.Session.load(run / "model.safetensors", session.model, session.tokenizer)


@pytest.mark.parametrize("path", ["nothing.silt", "."])
def test_no_file(session: st.Session, tmp_path: Path, path: str) -> None:
    with pytest.raises(SessionFileError, match="cannot be read"):
        st.Session.load(tmp_path / path, session.model, session.tokenizer)


HEADERS = [
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}}',
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,16]}}',
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,-16]}}',
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":{"dtype":"object","shape":[4],"data_offsets":[0,16]}}',
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":{"dtype":"U8","shape":[9],"data_offsets":[7,16]}}',
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":{"dtype":["U8"],"shape":[16],"data_offsets":[0,16]}}',
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":[1,2,3]}',
    '{"__metadata__":{"silt":{},"sha256":"x"}}',
    '{"__metadata__":{"silt":"{}","sha256":"x"},"a":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}}',
    '{"__metadata__":[]}',
    "[" * 100_000,
    '{"a":' + "9" * 10_000 + "}",
    "\udcff",
    "NaN",
]


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_made_up_headers(session: st.Session, file: Path, header: str) -> None:
    text = header.encode("utf-8", "surrogateescape")
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(SessionCorrupt):
        st.Session.load(file, session.model, session.tokenizer)


def rewritten(file: Path, change: Any) -> None:
    """The file with its header and tensors changed, and a right checksum."""
    header, tensors = silt.read(file)
    change(header, tensors)
    silt.write(file, header, tensors)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda h, t: h.update(format=2), SessionVersion, "newer"),
        (lambda h, t: h.update(format=2, anything={"else": 1}, model=None), SessionVersion, "newer"),
        (lambda h, t: h.update(format="1"), SessionCorrupt, "no format version"),
        (lambda h, t: h.pop("tokenizer"), SessionCorrupt, "'tokenizer'"),
        (lambda h, t: h.update(position="many"), SessionCorrupt, "'position'"),
        (lambda h, t: h.update(position=h["position"] + 1), SessionCorrupt, "do not belong together"),
        (lambda h, t: h.update(model={}), SessionCorrupt, "'model'"),
        (lambda h, t: h.update(notes=[]), SessionCorrupt, "'notes'"),
        (lambda h, t: t.pop("logits"), SessionCorrupt, "do not belong together"),
        (lambda h, t: t.update(logits=t["logits"][:-1]), SessionCorrupt, "do not belong together"),
        (lambda h, t: t.update(logits=t["logits"].double()), SessionCorrupt, "do not belong together"),
        (lambda h, t: t.pop("sampler"), SessionCorrupt, "sampler"),
        (lambda h, t: t.update(sampler=torch.zeros(7, dtype=torch.uint8)), SessionCorrupt, "does not fit"),
        (lambda h, t: t.pop("state.layers.0.window.key"), SessionCorrupt, "window.key"),
        (lambda h, t: t.update({"state.layers.0.window.key": torch.zeros(3)}), SessionCorrupt, "window.key"),
        (lambda h, t: t.update({"state.more": torch.zeros(3)}), SessionCorrupt, "more"),
        (lambda h, t: h.update(state={}), SessionCorrupt, "position"),
        (lambda h, t: h["state"].update(position=[-1]), SessionCorrupt, "position"),
        (lambda h, t: h["state"].update(position=[h["position"]] * 2), SessionCorrupt, "does not fit"),
        (lambda h, t: h["state"].update(counts={}), SessionCorrupt, "does not fit"),
        (lambda h, t: h["state"].update(counts=5), SessionCorrupt, "does not fit"),
        (lambda h, t: h["model"]["config"].update(window=16), SessionMismatch, "window is 16 there and 8 here"),
        (lambda h, t: h["model"]["config"].update(memory="new"), SessionMismatch, "cannot build"),
        (lambda h, t: h["model"]["config"].update(newkey=1), SessionMismatch, "cannot build"),
        (lambda h, t: h["model"].update(weights="0" * 64), SessionMismatch, "other weights"),
        (lambda h, t: h.update(tokenizer="0" * 64), SessionMismatch, "another tokenizer"),
        (lambda h, t: h.update(dtype="bfloat16"), SessionMismatch, "bfloat16"),
    ],
)
def test_whole_files_that_do_not_fit(session: st.Session, file: Path, change: Any, error: type[Exception], words: str) -> None:
    rewritten(file, change)
    with pytest.raises(error, match=words):
        st.Session.load(file, session.model, session.tokenizer)


def test_another_model(session: st.Session, file: Path, make_model: Any, tok: ByteTokenizer) -> None:
    with pytest.raises(SessionMismatch, match="other weights"):
        st.Session.load(file, make_model(seed=1), tok)
    with pytest.raises(SessionMismatch, match="segment is 8 there and 16 here"):
        st.Session.load(file, make_model(segment=16), tok)
    with pytest.raises(SessionMismatch, match="float32"):
        st.Session.load(file, make_model().to(torch.float64), tok)


def test_weights_that_were_changed_in_between(make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    model = make_model()
    session = st.Session(model, tok)
    session.save(tmp_path / "a.silt")
    with torch.no_grad():
        model.embed.weight.add_(1e-3)
    with pytest.raises(SessionMismatch, match="other weights"):
        st.Session.load(tmp_path / "a.silt", model, tok)


def test_another_tokenizer(session: st.Session, file: Path) -> None:
    class Other(ByteTokenizer):
        fingerprint = "1" * 64

    with pytest.raises(SessionMismatch, match="tokenizer"):
        st.Session.load(file, session.model, Other())


def test_a_full_disk_leaves_the_old_file(session: st.Session, file: Path) -> None:
    before = file.read_bytes()
    session.append("more")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(StorageError, match="a.silt"):
            session.save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before and os.listdir(file.parent) == ["a.silt"]
    session.save(file)
    assert file.read_bytes() != before


def test_no_space_left(session: st.Session, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="the disk is full"):
            session.save(file)
    assert file.read_bytes() == before and os.listdir(file.parent) == ["a.silt"]


@pytest.mark.parametrize("path", ["a.silt/b.silt", "nowhere/b.silt", "/proc/b.silt", "."])
def test_places_that_cannot_be_written(session: st.Session, file: Path, path: str) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        session.save(file.parent / path)


def test_describe(session: st.Session, file: Path, make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    found = describe(file)
    json.dumps(found)
    assert found["position"] == session.position and found["file_bytes"] == file.stat().st_size
    assert found["parts"]["window"] == session._state.parts()["window"]
    assert len(found["checkpoints"]) == session._state.checkpoints()[0][0] and found["checkpoints"][0] == (0, 8)
    assert found["tokenizer"] == tok.fingerprint and found["stream"] is None
    rewritten(file, lambda h, t: h.update(position=10**15))
    with pytest.raises(SessionCorrupt, match="are too few for the checkpoints"):
        describe(file)
