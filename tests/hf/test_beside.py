"""Other forms of an imported decoder beside its run: their keys, what they read, and the rows of `siltstone eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import CheckpointError, InputError
from siltstone.eval import beside
from siltstone.eval.retrieval import PASSAGE, RereadReader, RetrievalReader, Retrieved
from siltstone.eval.tasks.reader import Reader
from siltstone.hf import BLOCKS, blocks, import_run
from siltstone.inference.asking import decisive
from tests.cli.commands import good, refused

from .tiny import saved

TINY: dict[str, Any] = dict(pattern="m", cache="blocks", window=16, sinks=2, segment=8, top_k=2, router="subblock:2")
TEXT = "".join(f"Number {i} is {i * 37 % 101}. " for i in range(60))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("llama", tmp_path_factory.mktemp("hf") / "hf")


@pytest.fixture(scope="module")
def run(source: Path) -> Path:
    return import_run(source, source.parent / "run", **TINY)


def logits(reader: Reader, text: str = TEXT) -> torch.Tensor:
    found = reader.read(text).logits
    assert found is not None
    return found


def test_every_arm_is_the_decoder_with_other_keys(source: Path, run: Path) -> None:
    model, tokenizer = st.load(run)
    own, origin = Reader(model, tokenizer), beside.origin(run)
    assert origin.trained == 512 and origin.cfg.pattern == "a" and tokenizer is not None
    own.read(TEXT)
    length = len(tokenizer.encode(TEXT))
    assert length > 600
    for arm, keys in (
        ("full", {}),
        ("yarn", {"rope_scaling": {"type": "yarn", "factor": (length + 64) / 512, "original_max_position_embeddings": 512}}),
        ("dynamic", {"rope_theta": 10000.0 * ((length + 64) / 512) ** (8 / 6)}),
    ):
        plain, _ = st.from_hf(source, **keys)
        torch.testing.assert_close(logits(beside.reader(own, origin, arm, length)), logits(Reader(plain, tokenizer)))
    for arm in ("yarn", "dynamic"):  # within the trained context
        assert origin.keys(arm, 400, 0) == {}
    twin = beside.reader(own, origin, "window", length)
    bytes_ = twin.read(TEXT).nbytes
    assert twin.model.cfg.layer.sinks == 4 and 0.9 * own.largest < bytes_ <= own.largest * 1.01  # type: ignore[union-attr]
    half = origin.keys("window", length, own.largest // 2)["window"]
    assert 0.45 < half / twin.model.cfg.layer.window < 0.55  # type: ignore[union-attr]


def test_retrieval_reads_passages_and_the_question_alone(run: Path) -> None:
    pytest.importorskip("bm25s")
    model, tokenizer = st.load(run)
    reader = RetrievalReader(model, tokenizer)
    text = "A day like any other. " * 90 + "The captain of the keen-needle is Melan. " + "A night like any other. " * 90
    question = "\nQuestion: Who is the captain of the keen-needle?\nAnswer: The captain of the keen-needle is"
    held = reader.read(text)
    asked = held.fork()
    asked.append(question)
    s = asked._asked
    limit = 5 * PASSAGE + len(tokenizer.encode(question))  # type: ignore[union-attr]
    assert PASSAGE < s.position <= limit + 9 and asked.logits is not None
    best = [held._passages[i] for i in sorted(beside.bm25(held._passages, question) or [])]
    assert "keen" in "".join(best) and len(best) == 5
    plain = st.Session(model, tokenizer)  # type: ignore[arg-type]
    plain.append("".join(best) + question)
    assert torch.equal(asked.logits, plain.logits)  # type: ignore[arg-type]
    assert "".join(asked.generate(4, temperature=0.0)) == "".join(plain.fork().generate(4, temperature=0.0))
    with pytest.raises(InputError, match="chosen by a question"):
        Retrieved(reader, ["a"]).score("b")


def test_passages_that_a_question_attends_to_are_read_again(run: Path) -> None:
    model, tokenizer = st.load(run)
    assert tokenizer is not None
    own = Reader(model, tokenizer)
    again, question = beside.reader(own, beside.origin(run), "reread", 0), "\nQuestion: what is Number 7?\nAnswer:"
    assert isinstance(again, RereadReader)
    session, ids = again.read(TEXT), tokenizer.encode(TEXT)
    before = session.position
    asked = again.asking(session, question)
    spans = [*reversed(decisive(own.asking(session, question)) or [])]
    plain = session.fork()
    plain.append("".join(f"\n{tokenizer.decode(ids[first:end])}" for first, end in spans))
    plain.asking = True
    plain.append(question)
    assert spans and asked.logits is not None and torch.equal(asked.logits, plain.logits)  # type: ignore[arg-type]
    assert session.position == before == len(ids) and asked.position > before + len(tokenizer.encode(question)) + 8
    other = RereadReader(beside.reader(own, beside.origin(run), "full", 0).model, tokenizer)
    with pytest.raises(InputError, match="leave out the arm reread"):
        other.asking(other.read(TEXT), question)


def test_the_command(run: Path, tmp_path: Path) -> None:
    given = ["eval", run, "--tasks", "facts", "--lengths", 1100, "--seeds", 1, "--items", 1]
    found = json.loads(good(*given, "--beside", "full,window", "--json", "--out", tmp_path / "a.html").stdout)
    arms = [row["at"].get("arm", "") for row in found["rows"]]
    assert arms == [""] * 6 + ["full"] * 6 + ["window"] * 6 and found["command"].endswith("--beside full,window")
    assert [row["score"] for row in found["rows"][:6]] == [row["score"] for row in found["rows"][6:12]]
    assert "arm full" in (tmp_path / "a.html").read_text("utf-8")
    refused("--beside 'half' is not known; choose of full,", *given, "--beside", "half")
    refused("--beside has no effect on repeats", "eval", run, "--tasks", "repeats", "--beside", "full")
    own = st.save(st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1)), st.ByteTokenizer(), tmp_path / "own")
    refused("was not imported from a decoder", "eval", own, *given[2:], "--beside", "full")


def test_the_settled_law_of_blocks(source: Path, tmp_path: Path) -> None:
    good("import", source, "--out", tmp_path / "run", "--blocks", "--set", "window=16", "--set", "top_k=2")
    model, _ = st.load(tmp_path / "run")
    layer = model.cfg.layer
    assert (layer.cache, layer.window, layer.segment, layer.top_k, layer.router) == ("blocks", 16, 32, 2, "subblock:2")
    assert layer.cache_options == BLOCKS["cache_options"] and layer.cache_options["route_every"] == 32
    from_python, _ = st.from_hf(source, **BLOCKS)
    assert from_python.cfg.replace(window=16, top_k=2) == model.cfg


@pytest.mark.parametrize(
    ("keys", "coarse"),
    [
        (dict(), 16),
        (dict(segment=64, top_k=4), 16),
        (dict(segment=8), 0),
        (dict(router="subblock:32"), 0),
        (dict(router="mean"), 0),
        (dict(max_checkpoints=64, evict="use"), 0),
        (dict(max_checkpoints=64), 16),
        (dict(cache_options={"route_every": 8}), 0),
    ],
)
def test_coarse_routing_keys_fit_the_other_keys(keys: dict[str, Any], coarse: int, source: Path) -> None:
    model, _ = st.from_hf(source, **blocks(**keys))
    assert model.cfg.layer.members.cache.options.coarse == coarse


def test_a_record_that_says_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"{}", b"[]", b'{"files": {"config.json": "{}"}}', b'{"files": 5}'):
        monkeypatch.setattr(beside, "read_beside", lambda folder, name, data=data: data)
        with pytest.raises(CheckpointError, match=r"pretrained\.json does not describe a decoder"):
            beside.origin(run)
