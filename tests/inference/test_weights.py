"""A session belongs to the weights it was made with, whatever changes them and however."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize

import siltstone as st
from siltstone.errors import CheckpointError, InputError, SessionMismatch
from siltstone.models import fingerprint
from siltstone.text import ByteTokenizer

OPTIMIZERS: dict[str, Callable[[list[torch.Tensor]], torch.optim.Optimizer]] = {
    "adamw fused": lambda p: torch.optim.AdamW(p, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, foreach=True),
    "adamw loop": lambda p: torch.optim.AdamW(p, foreach=False),
    "adam fused": lambda p: torch.optim.Adam(p, fused=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, fused=True),
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
}


def step(model: st.LM, make: Callable[..., torch.optim.Optimizer]) -> None:
    model.requires_grad_(True)
    optimizer = make(list(model.parameters()))
    model(torch.arange(40)[None])[0].square().mean().backward()
    optimizer.step()


def by_data(model: st.LM) -> None:
    model.embed.weight.data[3, 5] += 1e-3


def by_numpy(model: st.LM) -> None:
    model.embed.weight.detach().numpy()[0, 0] += 1e-3


def by_storage(model: st.LM) -> None:
    model.embed.weight.untyped_storage()[7] ^= 1


def by_swap(model: st.LM) -> None:
    rows = model.embed.weight.data
    rows[[3, 9]] = rows[[9, 3]]


def by_loading(model: st.LM) -> None:
    model.load_state_dict({name: x + 1e-3 for name, x in model.state_dict().items()})


def by_replacing(model: st.LM) -> None:
    model.norm.weight = torch.nn.Parameter(model.norm.weight.detach() * 1.5)


CHANGES: dict[str, Callable[[st.LM], None]] = {
    **{name: lambda model, make=make: step(model, make) for name, make in OPTIMIZERS.items()},
    "data": by_data,
    "numpy": by_numpy,
    "storage": by_storage,
    "rows swapped": by_swap,
    "load_state_dict": by_loading,
    "replaced": by_replacing,
    "dtype": lambda model: model.to(torch.float64) and None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_found(change: str, make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    model = make_model()
    session = st.Session(model, tok)
    session.append("Some words.")
    session.save(tmp_path / "a.silt")
    before = (tmp_path / "a.silt").read_bytes()
    CHANGES[change](model)
    with pytest.raises(SessionMismatch, match="weights were changed since this session was made \\((embed|norm|blocks)"):
        session.save(tmp_path / "a.silt")
    assert (tmp_path / "a.silt").read_bytes() == before
    with pytest.raises(SessionMismatch, match="other weights|float32"):
        st.Session.load(tmp_path / "a.silt", model, tok)
    fresh = st.Session(model, tok)
    fresh.append("Some words.")
    fresh.save(tmp_path / "b.silt")
    assert st.Session.load(tmp_path / "b.silt", model, tok).position == fresh.position


def test_the_same_weights_again(make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    model = make_model()
    session, weights = st.Session(model, tok), copy.deepcopy(model.state_dict())
    session.append("Some words.")
    by_data(model)
    model.load_state_dict(weights)
    session.save(tmp_path / "a.silt")
    assert st.Session.load(tmp_path / "a.silt", make_model(), tok).position == session.position


def test_weights_are_hashed_once(make_model: Any, tok: ByteTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = fingerprint.fingerprint_of
    monkeypatch.setattr(fingerprint, "fingerprint_of", lambda *args: calls.append(1) or whole(*args))
    model = make_model(seed=7)
    sessions = [st.Session(model, tok) for _ in range(5)]
    sessions[0].append("x")
    sessions[0].save(tmp_path / "a.silt")
    st.Session.load(tmp_path / "a.silt", model, tok)
    assert len(calls) == 1


def test_a_frozen_model(make_model: Any, tok: ByteTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: Any) -> None:
    model = make_model(seed=8)
    frozen = st.freeze(model)
    sums: list[int] = []
    monkeypatch.setattr(fingerprint, "_sums", lambda x: sums.append(1))
    sessions = [st.Session(frozen, tok) for _ in range(3)]
    sessions[0].append("Some words, and then some more.")
    sessions[0].save(tmp_path / "a.silt")
    assert not sums
    monkeypatch.undo()
    for change in (by_data, lambda m: m.embed.weight.add_(1), by_loading, lambda m: m.norm.weight.copy_(m.norm.weight)):
        with pytest.raises(RuntimeError), torch.no_grad():
            change(frozen)
    frozen = st.freeze(model)
    session = st.Session(frozen, tok)
    session.append("Some words, and then some more.")
    other = st.Session(model, tok)
    other.append("Some words, and then some more.")
    assert same(other, session) and same(other, st.Session.load(tmp_path / "a.silt", model, tok))
    by_data(model)  # the copy is its own
    session.save(tmp_path / "a.silt")
    by_replacing(frozen)
    with pytest.raises(SessionMismatch, match="norm.weight"):
        session.save(tmp_path / "a.silt")
    with pytest.raises(InputError, match="model is a Linear"):
        st.freeze(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def behind_torch(model: st.LM) -> None:
    model.embed.weight.data.mul_(1.5)


def one_norm_in_numpy(model: st.LM) -> None:
    model.norm.weight.detach().numpy()[0] += 1


@torch.inference_mode()
def one_row_in_inference_mode(model: st.LM) -> None:
    model.embed.weight[200:208].add_(1)


def to_half(model: st.LM) -> None:
    model.half()


@pytest.mark.parametrize("change", [behind_torch, one_norm_in_numpy, one_row_in_inference_mode, to_half])
def test_a_frozen_model_that_was_changed_all_the_same(change: Any, make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    frozen = st.freeze(make_model(seed=8))
    session = st.Session(frozen, tok)
    session.append("Some words.")
    session.save(tmp_path / "a.silt")
    change(frozen)
    with pytest.raises(SessionMismatch, match="weights were changed since"):
        session.save(tmp_path / "a.silt")
    with pytest.raises(SessionMismatch, match="other weights|float16"):
        st.Session.load(tmp_path / "a.silt", frozen, tok)


class Twice(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_parametrised_weights(make_model: Any, tok: ByteTokenizer, tmp_path: Path, same: Any) -> None:
    model = make_model()
    parametrize.register_parametrization(model.blocks[0].mix.out, "weight", Twice())
    session = st.Session(model, tok)
    session.append("Some words.")
    session.save(tmp_path / "a.silt")
    plain, _ = st.load(st.save(model, tok, tmp_path / "run"))
    assert not any("parametrizations" in name for name in plain.state_dict())
    assert same(st.Session.load(tmp_path / "a.silt", plain, tok), session)
    with torch.no_grad():
        model.blocks[0].mix.out.parametrizations.weight.original.mul_(1.5)
    with pytest.raises(SessionMismatch, match="blocks.0.mix.out.weight"):
        session.save(tmp_path / "a.silt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("rule", ["gated", "gru", "lstm"])
def test_quantised_twins_have_sessions_of_their_own(rule: str, make_model: Any, tok: ByteTokenizer, tmp_path: Path) -> None:
    model, modules = make_model(memory=rule), {torch.nn.Linear, torch.nn.GRU, torch.nn.LSTM}
    twin = torch.ao.quantization.quantize_dynamic(model, modules, dtype=torch.qint8)
    session = st.Session(twin, tok)
    session.append("Some words, and then some more of them.")
    assert list(session.fork().generate(3, temperature=0))
    session.save(tmp_path / "a.silt")
    assert st.Session.load(tmp_path / "a.silt", twin, tok).position == session.position
    with pytest.raises(SessionMismatch, match="other weights"):
        st.Session.load(tmp_path / "a.silt", model, tok)
    with pytest.raises(CheckpointError, match="does not fit its configuration"):
        st.save(twin, tok, tmp_path / "run")
