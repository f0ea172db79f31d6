"""Session files that strangers made: every one is refused with one of our errors, before memory is taken, or works."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import InputError, SessionCorrupt, SiltstoneError
from siltstone.inference import silt
from siltstone.inference.describe import describe
from siltstone.inference.reader import Reader
from siltstone.io.tensors import write_sealed
from siltstone.text import ByteTokenizer

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]


def nested(deep: int) -> Any:
    value: Any = 1
    for _ in range(deep):
        value = [value]
    return value


def sampler(**fields: int) -> Change:
    """A generator's state with some of its numbers changed."""
    places = {"left": (8, "<i"), "seeded": (12, "<i"), "next": (16, "<Q"), "word": (24, "<Q")}

    def change(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        data = bytearray(tensors["sampler"].numpy().tobytes())
        for name, value in fields.items():
            at, form = places[name]
            struct.pack_into(form, data, at, value)
        tensors["sampler"] = torch.frombuffer(data, dtype=torch.uint8)

    return change


FORGED: dict[str, Change] = {
    "generator reads beyond its words": sampler(left=624, next=624),
    "generator far beyond": sampler(next=2**40),
    "generator never seeded": sampler(seeded=0),
    "generator wide words": sampler(word=2**40),
    "phase true": lambda h, t: h["state"].update(phase=[True]),
    "position true": lambda h, t: h.update(position=True),
    "position beyond 2^62": lambda h, t: (h.update(position=2**62), h["state"].update(position=[2**62])),
    "position of 19 digits": lambda h, t: h.update(position=10**19),
    "counts of bools": lambda h, t: h["state"]["counts"].update({k: [True] for k in h["state"]["counts"]}),
    "counts of floats": lambda h, t: h["state"]["counts"].update({k: [4.0] for k in h["state"]["counts"]}),
    "no counts": lambda h, t: h["state"].update(counts=[]),
    "logits on no model": lambda h, t: t.update(logits=t["logits"][None]),
    "logits as integers": lambda h, t: t.update(logits=t["logits"].long()),
    "a state as integers": lambda h, t: t.update({"state.layers.0.window.key": t["state.layers.0.window.key"].long()}),
    "depth of thousands": lambda h, t: h["model"]["config"].update(depth=9999),
    "a config of lists": lambda h, t: h["model"].update(config={"vocab_size": [], "d_model": {}}),
    "a pattern of numbers": lambda h, t: h["model"]["config"].update(pattern=5),
    "fingerprints of two models": lambda h, t: h["model"].update(fingerprint="0" * 64),
    "a tokenizer of control characters": lambda h, t: h.update(tokenizer="\x1b[2J" * 1000),
    "dtype of control characters": lambda h, t: h.update(dtype="\x1b[2J" * 1000),
    "a huge dtype": lambda h, t: h.update(dtype="x" * 100_000),
}


@pytest.fixture
def file(session: st.Session, tmp_path: Path) -> Path:
    session.save(tmp_path / "a.silt")
    return tmp_path / "a.silt"


@pytest.mark.parametrize("name", FORGED)
def test_forged_with_a_right_checksum(name: str, session: st.Session, file: Path) -> None:
    header, tensors = silt.read(file)
    FORGED[name](header, tensors)
    silt.write(file, header, tensors)
    with pytest.raises(SiltstoneError) as error:
        st.Session.load(file, session.model, session.tokenizer)
    assert len(str(error.value)) < 1000
    try:
        json.dumps(describe(file), allow_nan=False)
    except SiltstoneError as error:
        assert len(str(error)) < 1000


@pytest.mark.parametrize(
    "silt_text",
    [
        '{"a":' * 700 + "1" + "}" * 700,
        '{"format": 1, "position": ' + "9" * 5000 + "}",
        '{"format": 1e400}',
        '{"format": NaN}',
        "[1]",
        "",
    ],
)
def test_forged_descriptions(silt_text: str, session: st.Session, file: Path) -> None:
    write_sealed(file, {"a": torch.zeros(2)}, {"silt": silt_text}, silt.SEAL)
    for read in (lambda: st.Session.load(file, session.model, session.tokenizer), lambda: describe(file)):
        with pytest.raises(SessionCorrupt):
            read()


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F4", "C64", "U16", "", None, ["F32"], {"F32": 1}, 7])
def test_dtypes_that_are_not_read(kind: Any, session: st.Session, file: Path) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + length])
    head["logits"]["dtype"] = kind
    text = json.dumps(head).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(SessionCorrupt):
        st.Session.load(file, session.model, session.tokenizer)


def test_a_shape_whose_strides_cannot_be_counted(session: st.Session, file: Path) -> None:
    """Nothing is in it, so that its size agrees."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [0, *[2**47] * 3], "data_offsets": [0, 0]}}).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(SessionCorrupt, match="description of 'a' is invalid"):
        st.Session.load(file, session.model, session.tokenizer)


def test_bools_that_are_neither(tmp_path: Path) -> None:
    from siltstone.io import read_tensors, write_tensors

    write_tensors(tmp_path / "a", {"a": torch.tensor([True, False])})
    data = bytearray((tmp_path / "a").read_bytes())
    data[-1] = 7
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match="neither true nor false"):
        read_tensors(tmp_path / "a")


@pytest.mark.parametrize(
    "note",
    [
        {"bits": "nan"}, {"bits": "1e3"}, {"bits": True}, {"bits": None}, {"bits": -1.0}, {"bytes": 2.0}, {"tokens": True},
        {"offset": "5"}, {"tail": 5}, {"tail_bytes": 1.5}, {"unscored": -1},
    ],
)  # fmt: skip
def test_forged_notes_of_a_stream(note: dict[str, Any], session: st.Session) -> None:
    good = {"offset": 5, "bits": 1.0, "bytes": 5, "tokens": 5, "unscored": 0, "tail": "", "tail_bytes": 0}
    session.notes["stream"] = dict(good)
    Reader(session)
    session.notes["stream"] = good | note
    with pytest.raises(SessionCorrupt, match="note of its stream is invalid"):
        Reader(session)


@pytest.mark.parametrize(
    "notes",
    [[], "text", None, {"a": math.nan}, {"a": math.inf}, {"a": {1, 2}}, {"a": b"x"}, {"a": nested(70)}, {"a": nested(5000)},
     {"a": 10**30}, {"a": "x" * 2**20}, {"a": object()}, {1: "a"}, {"a": [{None: 1}]}],
    ids=range(14),
)  # fmt: skip
def test_notes_that_could_not_be_read_again(notes: Any, session: st.Session, file: Path) -> None:
    before = file.read_bytes()
    session.notes = notes
    with pytest.raises(InputError, match="notes"):
        session.save(file)
    assert file.read_bytes() == before


def test_a_session_under_autocast(model: st.LM, tok: ByteTokenizer, tmp_path: Path) -> None:
    session = st.Session(model, tok)
    with torch.autocast("cpu", torch.bfloat16):
        session.append("Some words, and then some more.")
        session.save(tmp_path / "a.silt")
    loaded = st.Session.load(tmp_path / "a.silt", model, tok)
    assert session.logits is not None and loaded.logits is not None
    assert loaded.logits.dtype == torch.float32 and torch.equal(loaded.logits, session.logits)


def test_a_position_that_could_not_be_read_again(session: st.Session, file: Path) -> None:
    before = file.read_bytes()
    session._state.positions.position[:] = 2**62
    with pytest.raises(SessionCorrupt, match="^the session holds .*position"):
        session.save(file)
    assert file.read_bytes() == before


MEMORY = """
import resource, sys, torch
sys.path[:0] = {path!r}
import siltstone as st
from siltstone.errors import SiltstoneError
from siltstone.inference.describe import describe
model, tok = st.load({run!r})
try:
    st.Session.load({file!r}, model, tok)
except SiltstoneError:
    pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (lambda: st.Session.load({file!r}, model, tok), lambda: describe({file!r}), lambda: st.load({folder!r})):
    try:
        read()
    except SiltstoneError as error:
        print(error, file=sys.stderr)
    else:
        raise SystemExit("taken")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def sparse_file(path: Path, head: dict[str, Any], size: int) -> None:
    """A file of tensors whose data are a hole in the disk."""
    text = json.dumps(head, separators=(",", ":")).encode()
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.truncate(8 + len(text) + size)


def test_memory_is_taken_after_the_checks(run: Path, session: st.Session, file: Path, tmp_path: Path) -> None:
    header, _ = silt.read(file)
    size = 100 * 2**20
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    meta = {"silt": json.dumps(header), "sha256": "0" * 64}
    sparse_file(tmp_path / "large.silt", {"__metadata__": meta, "state.layers.0.window.key": entry}, size)
    folder = tmp_path / "wide"
    folder.mkdir()
    cfg = session.model.cfg.replace(d_model=4096, heads=4, mlp_dim=65536, depth=12).to_dict()
    (folder / "config.json").write_text(json.dumps(cfg))
    (folder / "tokenizer.json").write_text(ByteTokenizer().to_json())
    (folder / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    root = Path(__file__).resolve().parents[2]
    code = MEMORY.format(path=[str(root), str(root / "src")], run=str(run), file=str(tmp_path / "large.silt"), folder=str(folder))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40_000, (done.stdout, done.stderr)  # kilobytes


def test_a_large_header(session: st.Session, file: Path, tmp_path: Path) -> None:
    entries = {f"t{i}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for i in range(20_000)}
    sparse_file(file, {"__metadata__": {"silt": "{}", "sha256": "0" * 64}} | entries, 0)
    with pytest.raises(SessionCorrupt, match="not a session file"):
        st.Session.load(file, session.model, session.tokenizer)
