"""A forger of session files: whatever it writes is refused with one of our errors, or is a session that can be used.

Files are damaged byte by byte, or forged with a right checksum: numbers, names, dtypes and shapes in the header and in the
tensors are exchanged for others. Nothing may raise an error that is not ours, end the process, or take long.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import SessionCorrupt, SessionFileError, SiltstoneError
from siltstone.inference import silt
from siltstone.inference.describe import describe
from siltstone.io.tensors import write_sealed
from siltstone.text import ByteTokenizer

from .factor import FACTOR

KINDS: list[dict[str, Any]] = [
    {"cache": "sparse", "top_k": 2, "sinks": 2},
    {"segments": "logarithmic", "memory": "gated_delta", "rate": 2, "compress": "mean", "checkpoint_dtype": "int8"},
    {"segments": "logarithmic", "start": "carry", "memory": "gru"},
    {"memory": "deep", "cache": "soup", "write_delay": 0},
    {"cache": "exact", "memory": "gated_delta", "pattern": "mwa", "depth": 3},
    {"segments": "content", "router": "subblock:4", "cut_at": "e"},
    {"max_checkpoints": 2, "evict": "use", "short_conv": 3},
    {"router": "anchor:2", "cache_options": {"exact": 2}, "segments": "constant"},
    {"max_checkpoints": 2, "evict": "merge", "memory": "linear", "checkpoint_dtype": "bfloat16"},
]
NASTY: list[Any] = [
    0, 1, -1, 2, 7, 2**31, 2**53 + 1, 2**62 - 1, 2**62, 2**63, 10**19, True, False, None, 0.5, -0.0, 1e308,
    "", "x", "nan", "\x1b[2J", "é" * 300, [], [0], [True], [[]], [-1, 2**40], {}, {"a": 1}, "float32", "0" * 64,
]  # fmt: skip
SLOW = 5.0  # seconds: a file that keeps a process busy


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a value of JSON."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


def forged_header(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    header = json.loads(json.dumps(header))
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        path = rng.choice(list(places(header)))
        put(header, path, copy.deepcopy(rng.choice(NASTY)))
    return header


def forged_tensors(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    tensors = dict(tensors)
    name = rng.choice(list(tensors))
    x = tensors[name].clone()
    kind = rng.randrange(7)
    if kind == 0:
        del tensors[name]
        return tensors
    if kind == 1:
        x = x.to(rng.choice([torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.int8, torch.uint8, torch.bool]))
    elif kind == 2 and x.dim():
        axis = rng.randrange(x.dim())
        x = x.narrow(axis, 0, rng.randrange(x.shape[axis] + 1)).clone()
    elif kind == 3:
        x = x.unsqueeze(0) if rng.random() < 0.5 else torch.cat([x, x]) if x.dim() else x
    elif kind == 4 and x.numel():
        value = rng.choice([0, 1, -1, 127, 2**31, 2**62, math.nan, math.inf, -math.inf, 1e30])
        whole = not x.is_floating_point()
        top = torch.iinfo(x.dtype).max if whole and x.dtype != torch.bool else 1
        value = min(int(value), top) if whole and math.isfinite(value) else 0 if whole else value
        value = 0 if x.dtype == torch.uint8 and value < 0 else value
        x.view(-1)[rng.randrange(x.numel())] = value
    elif kind == 5:
        tensors[rng.choice(["more", "state.more", "state.layers.9.online.matrix", "\x1b[2J", ""])] = x
    else:
        other = rng.choice(list(tensors))
        tensors[name], tensors[other] = tensors[other], tensors[name]
        return tensors
    tensors[name] = x
    return tensors


def damaged(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    head = 8 + int.from_bytes(data[:8], "little")
    at = rng.randrange(head if rng.random() < 0.7 else len(data))
    return rng.choice(
        [
            data[:a],
            data[:a] + data[b:],
            data[:a] + bytes(b - a) + data[b:],
            data[:b] + data[a:],
            data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
            data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:],
            data[:at] + rng.choice([b"9" * 30, b"[" * 2000, b'"', b"{", b"NaN", b"\xff", b"\0" * 8]) + data[at:],
        ]
    )


def used(session: st.Session, path: Path) -> None:
    """A session that was taken must be one: it reads, writes, scores, forks, and is saved and loaded again."""
    session.append("On.")
    session.score("and on")
    try:
        list(session.fork().generate(2))
    except SiltstoneError as error:  # a state that holds NaN
        assert "not finite" in str(error)
    try:
        session.save(path)
    except SessionCorrupt:  # numbers that became NaN, or overflowed, are not saved
        assert not all(torch.isfinite(x).all() for x in session._state.tensors().values())
    else:
        st.Session.load(path, session.model, session.tokenizer)


@pytest.fixture(scope="module", params=range(len(KINDS)))
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[st.LM, Path]:
    torch.manual_seed(request.param)
    small = {"segments": "constant", "depth": 2, "d_model": 16, "heads": 2, "window": 8, "segment": 8, "router_dim": 8}
    model = st.LM(st.presets.nano(259, **(small | KINDS[request.param]))).eval()
    session = st.Session(model, ByteTokenizer())
    session.append("Some words, and then some more of the same, to the end.")
    session.notes["stream"] = {"offset": 5, "bits": 1.0, "bytes": 5, "tokens": 5, "tail": "", "tail_bytes": 0}
    path = tmp_path_factory.mktemp("forger") / "a.silt"
    session.save(path)
    return model, path


def test_damaged_bytes(original: tuple[st.LM, Path], tmp_path: Path) -> None:
    model, path = original
    data, rng, tok = path.read_bytes(), random.Random(0), ByteTokenizer()
    file = tmp_path / "a.silt"
    for _ in range(int(60 * FACTOR)):
        forged = damaged(data, rng)
        if forged == data:
            continue
        file.write_bytes(forged)
        for read in (lambda: st.Session.load(file, model, tok), lambda: describe(file)):
            with pytest.raises(SessionFileError) as error:
                read()
            assert len(str(error.value)) < 1000


def test_forged_with_a_right_checksum(original: tuple[st.LM, Path], tmp_path: Path) -> None:
    model, path = original
    header, tensors = silt.read(path)
    rng, tok, file, taken = random.Random(1), ByteTokenizer(), tmp_path / "a.silt", 0
    for _ in range(int(120 * FACTOR)):
        began = time.monotonic()
        new_header = forged_header(header, rng) if rng.random() < 0.6 else header
        new_tensors = forged_tensors(tensors, rng) if new_header is header else tensors
        write_sealed(file, new_tensors, {"silt": json.dumps(new_header)}, silt.SEAL)
        try:
            json.dumps(describe(file), allow_nan=False)
        except SessionFileError as error:
            assert len(str(error)) < 1000
        try:
            session = st.Session.load(file, model, tok)
        except SessionFileError as error:
            assert len(str(error)) < 1000
        else:
            taken += 1
            used(session, tmp_path / "again.silt")
        assert time.monotonic() - began < SLOW, (new_header, new_tensors.keys())
    assert taken  # numbers of a memory may be others


def test_the_forger_can_be_caught(original: tuple[st.LM, Path], tmp_path: Path) -> None:
    """The file itself passes, and one that is known to be wrong does not."""
    model, path = original
    header, tensors = silt.read(path)
    used(st.Session.load(path, model, ByteTokenizer()), tmp_path / "again.silt")
    write_sealed(
        tmp_path / "a.silt", {k: x for k, x in tensors.items() if k != "logits"}, {"silt": json.dumps(header)}, silt.SEAL
    )
    with pytest.raises(SessionCorrupt):
        st.Session.load(tmp_path / "a.silt", model, ByteTokenizer())
