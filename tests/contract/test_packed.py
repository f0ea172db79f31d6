"""Sparse reads of rounded checkpoints: the oracle's outputs, and only what was picked is unpacked. Masks made once a seal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from siltstone.bank import constant as bank
from siltstone.bank import read, view
from siltstone.bank.codec import unpack
from siltstone.layers import reading, step
from siltstone.schedule.segments import Segments

from . import test_layer
from .common import PAD, STREAM, Batch, close, feed, init_state, make_layer, randn, the_layer, truth
from .grid import CASES, LENGTH, Case, inner
from .models import IDS, make_model, model_config, stepwise

KINDS = ("bfloat16", "int8")
SPARSE = [case for case in CASES if case.cfg["cache"] == "sparse"]
PACKED = [Case((*case.keys, ("checkpoint_dtype", KINDS[i % 2]))) for i, case in enumerate(SPARSE)]
every_case = pytest.mark.parametrize("case", PACKED, ids=lambda c: f"{c}-{c.cfg['checkpoint_dtype']}")
BASE: dict[str, Any] = dict(
    d_model=8, heads=2, head_dim=4, value_dim=None, window=3, sinks=0, position="rope", write_delay="window", compress="identity",
    rate=1, cache="sparse", segment=2, segments="constant", start="restart", gate="sigmoid", top_k=2, router="mean", router_dim=4,
)  # fmt: skip


def another_matrix(case: Case) -> bool:
    """Whether the oracle rounds what a rule keeps in another matrix: numbers of mlstm over e^m are other ones in bfloat16."""
    return case.cfg["memory"] == "mlstm" and case.cfg["checkpoint_dtype"] == "bfloat16"


the_oracles = pytest.mark.parametrize("case", [c for c in PACKED if not another_matrix(c)])


@every_case
def test_unpacking_what_was_picked_is_picking_from_what_was_unpacked(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, cuts = the_layer(case), ([], [case.first_cut + 1], range(1, LENGTH))

    def outputs() -> list[Tensor]:
        return [feed(layer, STREAM[None], init_state(layer, 1, case.phase), at)[0] for at in cuts]

    with torch.no_grad():
        got = outputs()
        monkeypatch.setattr(reading, "sparse", lambda memory, rows, leaves, mix: read.sparse(memory, rows, unpack(leaves), mix))
        for y, want in zip(got, outputs(), strict=True):
            close(y, want)


@the_oracles
def test_outputs_gradients_and_splits(case: Case) -> None:
    test_layer.test_forward_and_gradients(case)
    test_layer.test_every_split(case)


@the_oracles
def test_rows_at_different_positions(case: Case) -> None:
    layer, want = the_layer(case), truth(case)
    batch = Batch.of([*range(3), PAD, *range(3, 28)], [*range(9), *range(20)], [*[PAD] * 6, *range(22)])
    x = batch.spread(STREAM, 100.0)
    with torch.no_grad():
        for cuts in ([case.first_cut + 1, 17], range(15, LENGTH + 1)):
            y, _ = feed(layer, x, init_state(layer, 3, case.phase), cuts, mask=batch.mask, reset=batch.reset)
            close(y[batch.mask], batch.spread(want.y, 0.0)[batch.mask])


class Counter:
    """How many checkpoints are unpacked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, layer: Any):
        self.number, inside = 0, layer.cfg.heads * layer.cfg.key_dim * layer.cfg.val_dim
        for module in (bank, read, view, step):
            unpack = module.unpack

            def counted(leaves: tuple[Tensor, ...], *rest: Any, unpack: Any = unpack) -> tuple[Tensor, ...]:
                self.number += leaves[0].numel() // inside
                return unpack(leaves, *rest)

            monkeypatch.setattr(module, "unpack", counted)

    def of(self, layer: Any, x: Tensor, state: Any, **flags: Tensor) -> int:
        self.number = 0
        with torch.no_grad():
            layer(x, state, **flags)
        return self.number


@pytest.mark.parametrize("keys", [{}, dict(segments="content"), dict(max_checkpoints=20)], ids=["constant", "content", "budget"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_picked_stays_packed(kind: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    layer = make_layer(BASE | dict(memory="gated", checkpoint_dtype=kind) | keys)
    x = randn(2, 64, 8, seed=11)
    with torch.no_grad():
        _, state = layer(x[:, :62])
    assert state.checkpoints()[0].min() >= 20
    counter = Counter(monkeypatch, layer)
    token = x[:, 62:63]
    assert counter.of(layer, token[:1], state.select([0])) == 2  # of top_k
    assert 2 <= counter.of(layer, token, state) <= 2 * 2
    if "max_checkpoints" in keys:
        return  # a call that may seal unpacks the places there are
    with torch.no_grad():
        _, later = layer(token[:1], state.select([0]))
    apart = type(state).cat([later, state.select([1])])
    assert 2 <= counter.of(layer, x[:, 63:], apart, mask=torch.tensor([[False], [True]])) <= 2 * 2


@pytest.mark.parametrize("memory", ["gated", "deep"])
def test_a_sparse_read_of_rounded_rows_is_that_of_each_row(memory: str) -> None:
    layer = make_layer(BASE | dict(memory=memory, memory_options=inner(memory), checkpoint_dtype="int8"))
    x = randn(3, 40, 8, seed=12)
    with torch.no_grad():
        together, _ = feed(layer, x, None, range(20, 40))
        close(together, torch.cat([feed(layer, row[None], None, range(20, 40))[0] for row in x]))


def test_sub_blocks_without_a_write_are_found_once_a_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = dict(cache="gated", segments="content", segment=12, router="subblock:2", memory="gated")
    model = make_model(model_config(BASE | keys))
    cut = torch.zeros(1, 40, dtype=torch.bool)
    cut[0, [4, 7, 16, 22, 33]] = True
    want, _ = model(IDS[:1], cut=cut)
    found, find = [], Segments._find_empty
    monkeypatch.setattr(Segments, "_find_empty", lambda *args: found.append(args[1]) or find(*args))
    for gradients in (True, False):
        found.clear()
        with torch.set_grad_enabled(gradients):
            y, state = feed(model, IDS[:1], None, range(1, 40), cut=cut)
        close(y, want)
        sealed = int(state.checkpoints()[0][0])
        assert sealed == 5 and 0 < len(found) <= 2 * sealed  # in the call that seals, and for the tokens after it


def test_a_mask_found_without_gradients_serves_those_with() -> None:
    keys = dict(cache="gated", segments="content", segment=12, router="subblock:2", memory="gated")
    model = make_model(model_config(BASE | keys))
    cut = torch.zeros(1, 12, dtype=torch.bool)
    cut[0, 6] = True
    _, state = model(IDS[:1, :12], cut=cut)
    with torch.inference_mode():
        want, _ = model(IDS[:1, 12:13], state)
    y, _ = model.requires_grad_(True)(IDS[:1, 12:13], state)
    close(y.detach(), want.clone())
    y.sum().backward()
    forked, _ = stepwise(model, IDS[:1, 12:13], state.fork())
    assert torch.equal(forked, y)
