"""Runtimes: which there are, what they compute, and what they do to sessions."""

from __future__ import annotations

import gc
import logging
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import siltstone as st
from siltstone.errors import InputError, PoolFull, RuntimeChanged, SessionMismatch
from siltstone.inference import runtime as runtimes
from siltstone.inference.program import CompiledStep
from siltstone.layers.products import Int8Linear
from siltstone.state import tree
from siltstone.text import ByteTokenizer

from ..models.test_streaming import Toy, ToyConfig

TEXT = "The same text, read by every runtime. " * 4


def small(seed: int = 0, **keys: object) -> st.LM:
    torch.manual_seed(seed)
    return st.LM(st.presets.nano(ByteTokenizer().vocab_size, depth=2, d_model=32, heads=2, window=8, segment=16, **keys)).eval()


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are traced and not compiled: test_program.py compiles."""
    monkeypatch.setattr(runtimes, "CompiledStep", partial(CompiledStep, backend="eager"))


def written(session: st.Session) -> str:
    session.append(TEXT)
    return "".join(session.generate(20, temperature=0.0))


def test_compiled_steps_write_what_eager_ones_write() -> None:
    model, tok = small(), ByteTokenizer()
    eager, compiled = (st.Session(model, tok, runtime=name) for name in ("eager", "compiled"))
    assert written(compiled) == written(eager)
    assert eager.logits is not None and compiled.logits is not None
    torch.testing.assert_close(compiled.logits, eager.logits, rtol=1e-4, atol=1e-5)
    fork = compiled.fork()
    assert "".join(fork.generate(5, temperature=0.0)) == "".join(compiled.generate(5, temperature=0.0))


def test_int8_rounds_the_layers_of_blocks_alone() -> None:
    model, tok = small(), ByteTokenizer()
    found = runtimes.runtime(model, "int8").reader(model)
    assert isinstance(found, st.LM) and found is not model
    for name, part in found.named_modules():
        assert not isinstance(part, nn.Linear) or name == "unembed", name
    assert any(isinstance(part, Int8Linear) for part in found.modules())
    assert not any(isinstance(part, Int8Linear) for part in model.modules())
    linear = nn.Linear(40, 30)
    rounded = Int8Linear.of(linear)
    wide = rounded.codes * rounded.scale[:, None]
    assert ((wide - linear.weight).abs() <= rounded.scale[:, None] / 2 * 1.001).all()
    x = torch.randn(1, 1, 40)
    one = Int8Linear(rounded.codes, rounded.scale, rounded.bias, one_row=True)
    for way in (rounded, one):
        torch.testing.assert_close(way(x), x @ wide.T + linear.bias)
    session, exact = st.Session(model, tok, runtime="int8"), st.Session(model, tok, runtime="eager")
    session.append(TEXT)
    exact.append(TEXT)
    assert session.logits is not None and exact.logits is not None
    apart = (session.logits - exact.logits).abs().max()
    assert 0 < apart < 0.05 * exact.logits.abs().max()
    before = session.fork()
    before.append([5])  # a step, and the same token as a text
    other = session.score([5, 6])[1]
    assert before.logits is not None
    torch.testing.assert_close(before.logits.log_softmax(-1)[6], other, rtol=1e-4, atol=1e-4)


def test_a_file_names_its_runtime_and_a_change_of_weights_is_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model, tok, path = small(), ByteTokenizer(), tmp_path / "a.silt"
    session = st.Session(model, tok, runtime="int8")
    session.append(TEXT)
    session.save(path)
    assert st.Session.load(path, model, tok, runtime="int8").position == session.position
    with pytest.warns(RuntimeChanged, match="runtime='int8' and continues with runtime='auto'"):
        again = st.Session.load(path, model, tok)
    again.save(path, overwrite=True)
    st.Session.load(path, model, tok, runtime="compiled")
    with pytest.warns(RuntimeChanged):
        st.Session.load(path, model, tok, runtime="int8")


def test_rounded_weights_follow_the_model() -> None:
    model = small()
    before = runtimes.runtime(model, "int8")
    assert runtimes.runtime(model, "int8") is before
    with torch.no_grad():
        model.blocks[0].mlp.down.weight.mul_(2)  # type: ignore[union-attr]
    assert runtimes.runtime(model, "int8") is not before


def test_a_runtime_does_not_keep_its_model() -> None:
    model = small()
    for name in ("eager", "compiled", "int8", "auto"):
        assert runtimes.runtime(model, name).name == name
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None


def test_auto_compiles_after_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tok = small(), ByteTokenizer()
    monkeypatch.setattr(runtimes, "AUTO_STEPS", 3)
    monkeypatch.setattr(runtimes, "AUTO_PARAMETERS", 1)
    session = st.Session(model, tok)
    session.append(TEXT)
    first = list(session.generate(3, temperature=0.0))
    found = runtimes.runtime(model, "auto")
    assert found._program is None and first
    list(session.generate(1, temperature=0.0))
    assert found._program is not None
    found._program.join()
    assert found._program.compiled == 1
    monkeypatch.setattr(runtimes, "compiler", lambda: None)
    other = small(1)
    session = st.Session(other, tok)
    written(session)
    assert runtimes.runtime(other, "auto")._program is None


def test_auto_says_once_that_the_compiler_failed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("no such instruction")

    model, tok = small(), ByteTokenizer()
    monkeypatch.setattr(runtimes, "CompiledStep", partial(CompiledStep, backend=broken))
    monkeypatch.setattr(runtimes, "AUTO_STEPS", 0)
    monkeypatch.setattr(runtimes, "AUTO_PARAMETERS", 1)
    session = st.Session(model, tok)
    session.append(TEXT)
    with caplog.at_level(logging.WARNING, "siltstone"):
        list(session.generate(1, temperature=0.0))
        program = runtimes.runtime(model, "auto")._program
        assert program is not None
        program.join()
        list(session.generate(3, temperature=0.0))
    said = [record for record in caplog.records if "compiler failed" in record.message]
    assert len(said) == 1 and session.position == len(TEXT) + 4


def test_what_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tok = small(), ByteTokenizer()
    with pytest.raises(InputError, match="runtime='fast' is not known; choose one of auto, eager, compiled, int8"):
        st.Session(model, tok, runtime="fast")
    toy = Toy(ToyConfig(tok.vocab_size))
    for name in ("compiled", "int8"):
        with pytest.raises(InputError, match=f"runtime='{name}' needs an LM, and the model is a Toy"):
            st.Session(toy, tok, runtime=name)
    monkeypatch.setattr(runtimes, "compiler", lambda: None)
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler, and none was found"):
        st.Session(small(2), tok, runtime="compiled")
    assert written(st.Session(small(2), tok, runtime="int8"))


def test_a_batch_takes_compiled_steps() -> None:
    """Five sessions of several ages: three programs, for one row, four and sixteen, and the texts of eager sessions."""
    model, tok = small(), ByteTokenizer()
    texts = [TEXT[: 10 + 7 * i] for i in range(5)]
    alone = []
    for text in texts:
        session = st.Session(model, tok, runtime="eager")
        session.append(text)
        alone.append("".join(session.generate(6, temperature=0.0)))
    with st.Batch(model, tok, runtime="compiled") as batch:
        found = []
        for text in texts:
            member = batch.join()
            member.feed(text)
            found.append(member.generate(6, temperature=0.0))
        batch.run()
        program = runtimes.runtime(model, "compiled").program
        assert program is not None
        program.join()
        assert ["".join(each) for each in found] == alone
        with pytest.raises(SessionMismatch, match="runtime='int8' and the batch runtime='compiled'"):
            batch.join(st.Session(model, tok, runtime="int8"))


def test_a_bank_that_memory_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled step says so before anything has changed, and goes on when there is room."""
    model, tok = small(segments="constant"), ByteTokenizer()
    session = st.Session(model, tok, runtime="compiled")
    session.append(TEXT)
    want = session.fork()
    want.append([5])
    with monkeypatch.context() as full:

        def cat(*given: object, **more: object) -> torch.Tensor:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

        full.setattr(tree.torch, "cat", cat)
        with pytest.raises(PoolFull, match="no memory for [0-9]+ entries .* the state is as it was"):
            session.append([5])
    session.append([5])
    assert session.logits is not None and want.logits is not None and session.logits.equal(want.logits)
