"""A model of thirty lines that is no `LM`: everything that streams works with it, as the protocol says."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import siltstone as st
from siltstone.doctor.equality import WAYS
from siltstone.doctor.run import examine
from siltstone.errors import InputError, SessionMismatch
from siltstone.eval import by_position, score_documents
from siltstone.inference.describe import describe
from siltstone.inference.pieces import pieces
from siltstone.inference.reader import Reader
from siltstone.models.fingerprint import fingerprint_of, plain_model, weights_of
from siltstone.models.streaming import StreamingModel, logits

TEXT = "The quick brown fox jumps over the lazy dog.\nPack my box with five dozen liquor jugs.\n"


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    vocab_size: int
    width: int = 8
    fingerprint = property(lambda self: f"toy {self.vocab_size} {self.width}")
    to_dict = dataclasses.asdict


@dataclasses.dataclass(frozen=True)
class ToyState:
    position: np.ndarray  # [B]
    h: Tensor  # [B, D]
    nbytes = property(lambda self: self.h.nbytes)
    fork = dataclasses.replace  # nothing is updated in place
    tensors = lambda self: {"h": self.h}  # noqa: E731
    meta = lambda self: {"position": self.position.tolist()}  # noqa: E731
    cat = staticmethod(lambda all: ToyState(np.concatenate([s.position for s in all]), torch.cat([s.h for s in all])))


class Toy(nn.Module):
    """A GRU, token by token."""

    def __init__(self, cfg: ToyConfig):
        super().__init__()
        self.cfg, self.embed = cfg, nn.Embedding(cfg.vocab_size, cfg.width)
        self.cell, self.out = nn.GRUCell(cfg.width, cfg.width), nn.Linear(cfg.width, cfg.vocab_size)

    like = property(lambda self: self.out.weight)

    def init_state(self, batch: int) -> ToyState:
        return ToyState(np.zeros(batch, np.int64), self.like.new_zeros(batch, self.cfg.width))

    def load_state(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> ToyState:
        empty = self.init_state(len(meta["position"]))
        if set(tensors) != {"h"} or tensors["h"].shape != empty.h.shape or tensors["h"].dtype != empty.h.dtype:
            raise InputError("the tensors are not those of this toy's state")
        return ToyState(np.array(meta["position"], np.int64), tensors["h"])

    def features(self, ids, state=None, mask=None, reset=None, inplace=False, cut=None):
        state, hidden = self.init_state(len(ids)) if state is None else state, []
        h, position = state.h, state.position.copy()
        for t in range(ids.shape[1]):
            valid = torch.ones(len(ids), dtype=torch.bool) if mask is None else mask[:, t]
            if reset is not None:
                h, position = h * ~reset[:, t : t + 1], np.where(reset[:, t], 0, position)
            h, position = torch.where(valid[:, None], self.cell(self.embed(ids[:, t]), h), h), position + valid.numpy()
            hidden.append(h)
        return torch.stack(hidden, 1) if hidden else h.new_zeros(len(ids), 0, self.cfg.width), ToyState(position, h)

    def head(self, hidden: Tensor) -> Tensor:
        return self.out(hidden)


@pytest.fixture
def tok() -> st.ByteTokenizer:
    return st.ByteTokenizer()


@pytest.fixture
def toy(tok: st.ByteTokenizer) -> Toy:
    torch.manual_seed(0)
    return Toy(ToyConfig(tok.vocab_size)).requires_grad_(False)


def test_it_fulfils_the_protocol(toy: Toy, tok: st.ByteTokenizer) -> None:
    model: StreamingModel = st.LM(st.presets.nano(tok.vocab_size, depth=1))  # as the type checker sees it
    for other in (toy, model):
        assert plain_model(nn.ModuleDict({"module": other})) is other  # as parallel wrappers hold theirs
        assert logits(other, torch.zeros(2, 3, dtype=torch.long))[0].shape == (2, 3, tok.vocab_size)


def test_a_session_reads_scores_and_forks(toy: Toy, tok: st.ByteTokenizer) -> None:
    s = st.Session(toy, tok)
    s.append("The quick")
    ids = torch.tensor([tok.encode("The quick")])
    torch.testing.assert_close(s.logits, toy.head(toy.features(ids)[0])[0, -1])
    before, mark = s.score(" brown fox"), s.snapshot()
    fork = s.fork()
    assert torch.equal(fork.append_scored(" brown fox"), before) and fork.position == 19 and s.position == 9
    s.append(" red hen")
    assert s.rollback(mark) == 0 and torch.equal(s.score(" brown fox"), before)
    s.append(" brown fox")
    assert s.rollback(12) == 3 and s.position == 12
    assert s.nbytes >= toy.cfg.width * 4


def test_it_generates(toy: Toy, tok: st.ByteTokenizer) -> None:
    def written(seed: int) -> str:
        s = st.Session(toy, tok)
        s.append("The")
        return "".join(s.generate(20, seed=seed))

    assert written(1) == written(1) != written(2)


def test_a_session_goes_through_a_file(toy: Toy, tok: st.ByteTokenizer, tmp_path: Path) -> None:
    s = st.Session(toy, tok)
    s.append(TEXT)
    s.notes["who"] = "toy"
    s.save(tmp_path / "a.silt")
    back = st.Session.load(tmp_path / "a.silt", toy, tok)
    assert back.position == s.position and torch.equal(back.logits, s.logits) and back.notes == s.notes
    assert list(back.generate(10)) == list(s.generate(10)) and back.counters.recomputed == 0
    torch.manual_seed(1)
    for other, words in (
        (Toy(ToyConfig(tok.vocab_size)), "other weights"),
        (Toy(ToyConfig(tok.vocab_size, 9)), "width is 8 there"),
    ):
        with pytest.raises(SessionMismatch, match=words):
            st.Session.load(tmp_path / "a.silt", other, tok)
    with pytest.raises(SessionMismatch, match="'width' is not a key"):
        st.Session.load(tmp_path / "a.silt", st.LM(st.presets.nano(tok.vocab_size, depth=1)), tok)
    with pytest.raises(SessionMismatch, match="this Siltstone cannot build"):
        describe(tmp_path / "a.silt")


def test_what_it_remembers_is_its_own(toy: Toy, tok: st.ByteTokenizer) -> None:
    """Fingerprints are of its choices and weights; a frozen copy has the same."""
    weights = weights_of(toy)
    other = dataclasses.replace(toy.cfg, width=9)
    assert fingerprint_of(toy.cfg, weights) != fingerprint_of(other, weights)
    frozen = st.freeze(toy)
    assert isinstance(frozen, Toy) and st.Session(frozen, tok)._weights.fingerprint == fingerprint_of(toy.cfg, weights)


def test_a_stream_is_read_and_taken_up(toy: Toy, tok: st.ByteTokenizer, tmp_path: Path) -> None:
    reader = Reader(st.Session(toy, tok))
    for piece in pieces(io.BytesIO(TEXT.encode()), lines=True, tokenizer=tok):
        reader.feed(piece)
    reader.save(tmp_path / "a.silt")
    again = Reader(st.Session.load(tmp_path / "a.silt", toy, tok))
    assert again.offset == len(TEXT) and again.cost == reader.cost and 6 < again.cost.bits_per_byte < 10
    found = again.receipt()
    assert found.growth is None and found.kv_cache_bytes is None and found.restored == len(TEXT)
    assert "KV cache" not in dict(found.rows()) and json.loads(json.dumps(found.to_dict()))["growth"] is None


def test_it_is_evaluated(toy: Toy, tok: st.ByteTokenizer) -> None:
    found = by_position(toy, tok, [TEXT, TEXT[::-1]], buckets=[0, 16, 64])
    nats = -float(st.Session(toy, tok).score(TEXT)[1:].sum())
    assert [b["tokens"] for b in found["buckets"]] == [30, 96] and found["documents"] == 2
    ids = np.array(tok.encode(TEXT))
    score = score_documents(toy, [ids, ids[:9]], [len(TEXT) - 1, 8], chunk=7)
    assert score is not None and score.tokens == len(TEXT) - 1 + 8
    assert score_documents(toy, [ids], [len(TEXT) - 1]).nats == pytest.approx(nats, rel=1e-5)  # type: ignore[union-attr]


def test_the_doctor_examines_it(toy: Toy, tok: st.ByteTokenizer) -> None:
    record = examine(toy, tok, tok.encode(TEXT))
    assert record.ok and len(record.checks) == 2 * len(WAYS) and record.gates == [] and record.facts["model"] == "Toy"
    assert {f.area for f in record.findings} == {"equality"} and all(f.level == "ok" for f in record.findings)


class Forgetful(Toy):
    """It begins anew with every call."""

    def features(self, ids, state=None, **flags):
        hidden, after = super().features(ids, **flags)
        return hidden, dataclasses.replace(after, position=after.position + (0 if state is None else state.position))


class Shared(Toy):
    """Its rows reach into each other."""

    def head(self, hidden: Tensor) -> Tensor:
        return super().head(hidden + hidden.sum(0, keepdim=True))


class Padded(Toy):
    """It reads padding."""

    def features(self, ids, state=None, mask=None, **flags):
        return super().features(ids, state, **flags)


@pytest.mark.parametrize(
    ("kind", "way"), [(Forgetful, "a token a call"), (Shared, "a row of a batch"), (Padded, "padding between tokens")]
)
def test_the_doctor_finds_what_breaks_a_law(kind: Callable[[ToyConfig], Toy], way: str, tok: st.ByteTokenizer) -> None:
    torch.manual_seed(0)
    record = examine(kind(ToyConfig(tok.vocab_size)).requires_grad_(False), tok, tok.encode(TEXT))
    assert not record.ok and way in {c.way for c in record.checks if not c.ok}


def test_what_is_no_streaming_model_is_refused(toy: Toy, tok: st.ByteTokenizer, tmp_path: Path) -> None:
    for other in (nn.Linear(2, 2), st.MemoryCaching(8, heads=2), toy.cfg):
        with pytest.raises(InputError, match=f"model is a {type(other).__name__}; give a model such as"):
            st.Session(other, tok)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model is a Toy, and a folder holds an st.LM"):
        st.save(toy, tok, tmp_path / "run")  # type: ignore[arg-type]
