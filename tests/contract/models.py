"""Small language models for the contract tests, and streams of ids for them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

import siltstone as st

from .common import cutting, feed, generic, init_state
from .grid import Case, used

VOCAB = 11
IDS = torch.randint(0, VOCAB, (3, 40), generator=torch.Generator().manual_seed(3))


def model_config(cfg: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The keys of a layer, made those of a model with one block."""
    base = dict(vocab_size=VOCAB, depth=1, pattern="m", mlp="gelu", mlp_dim=8, tie=True, norm_eps=1e-6)
    return cfg | base | keys


def make_model(keys: dict[str, Any], seed: int = 0) -> Any:
    torch.manual_seed(0)
    return generic(st.LM(st.LMConfig.from_dict(used(keys))), seed).eval().requires_grad_(False)


def new_model(case: Case) -> Any:
    return cutting(make_model(model_config(case.cfg)), case.cuts)


@cache
def the_model(case: Case) -> Any:
    return new_model(case)


@cache
def whole(case: Case) -> Tensor:
    """Logits [3, 40, vocabulary] of the three streams in one call."""
    return the_model(case)(IDS, init_state(the_model(case), 3, case.phase))[0]


def after(case: Case, n: int, row: int = 0) -> Any:
    """The state after n tokens of one stream."""
    model = the_model(case)
    return model(IDS[row : row + 1, :n], init_state(model, 1, case.phase))[1]


def stepwise(model: Any, ids: Tensor, state: Any, inplace: bool = False) -> tuple[Tensor, Any]:
    """Token by token."""
    return feed(model, ids, state, range(1, ids.shape[1]), inplace)


def through_bytes(model: Any, state: Any) -> Any:
    """A state written down as bytes and read again."""
    blob, meta = save({name: t.contiguous() for name, t in state.tensors().items()}), json.dumps(state.meta())
    return model.load_state(load(blob), json.loads(meta))


def same_bits(a: Any, b: Any) -> None:
    """Two states hold the same tensors, bit by bit, and stand at the same positions."""
    mine, yours = a.tensors(), b.tensors()
    assert list(mine) == list(yours)
    for name in mine:
        assert torch.equal(mine[name], yours[name]), name
    assert a.meta() == b.meta()
