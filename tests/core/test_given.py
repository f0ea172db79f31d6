"""Rows and whole numbers that a caller gives: numbers are numbers, truth values choose, and nothing is cut off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import InputError
from siltstone.state.tree import State, Store

LAYER = st.MemoryCaching(8, heads=2, window=2, segment=4, segments="content", router_dim=4)
RIGHT: dict[str, tuple[Any, list[int]]] = {
    "list": ([2, 0, 2], [2, 0, 2]),
    "tuple": ((1,), [1]),
    "range": (range(3), [0, 1, 2]),
    "nothing": ([], []),
    "numpy numbers": ([np.int64(1), np.uint8(2)], [1, 2]),
    "array": (np.array([2, 1], np.uint64), [2, 1]),
    "tensor": (torch.tensor([0, 0], dtype=torch.int32), [0, 0]),
    "tensors": ([torch.tensor(1), torch.tensor(0)], [1, 0]),
    "generator": ((i for i in (1, 0)), [1, 0]),
    "mask, tensor": (torch.tensor([True, False, True]), [0, 2]),
    "mask, array": (np.array([False, True, False]), [1]),
    "mask, list": ([True, True, False], [0, 1]),
    "mask, numpy": ([np.True_, np.False_, np.False_], [0]),
    "mask of none": (torch.zeros(3, dtype=torch.bool), []),
}
WRONG: dict[str, Any] = {
    "float": [1.0, 0.0],
    "float tensor": torch.tensor([0.9, 1.2]),
    "float array": np.array([0.0]),
    "half": torch.ones(1, dtype=torch.float16),
    "complex": np.array([1j]),
    "mixed": [True, 1, 0],
    "mixed numpy": [np.True_, 0],
    "short mask": [True, False],
    "long mask": torch.ones(4, dtype=torch.bool),
    "empty mask": torch.ones(0, dtype=torch.bool),
    "negative": [-1],
    "negative tensor": torch.tensor([0, -3]),
    "out of range": [3],
    "huge": [10**30],
    "huge array": np.array([2**64 - 1], np.uint64),
    "two axes": torch.zeros(2, 2, dtype=torch.long),
    "nested": [[0], [1]],
    "single": 1,
    "single tensor": torch.tensor(1),
    "text": "01",
    "texts": ["0"],
    "mapping": {0: 1},
    "sparse": torch.tensor([1, 0, 1]).to_sparse(),
    "None": None,
    "None inside": [None],
    "slice": slice(0, 2),
    "meta": torch.zeros(1, dtype=torch.long, device="meta"),
    "object": np.array([0, 1], object),
}


def three() -> st.LMState:
    cut = torch.zeros(3, 9, dtype=torch.bool)
    cut[1, 3] = True
    with torch.no_grad():
        return LAYER(torch.randn(3, 9, 8), LAYER.init_state(3, phase=[0, 1, 2]), cut=cut)[1]


def owners() -> dict[str, tuple[Any, Callable[[Any], list[float]]]]:
    """What rows are selected of, and what tells them apart."""
    state = three()
    layer = state.layers[0]
    store = layer.bank.store

    def key(x: State) -> list[float]:
        return [float(row.sum()) for row in x.window.key]

    return {
        "LMState": (state, lambda x: [*key(x.layers[0]), *x.phase.tolist()]),
        "State": (layer, key),
        "Clock": (state.positions, lambda x: x.phase.tolist()),
        "Store": (store, lambda x: x.count.tolist()),
    }


@pytest.mark.parametrize("kind", ["LMState", "State", "Clock", "Store"])
@pytest.mark.parametrize("name", RIGHT)
def test_rows_are_selected_by_number_or_by_truth(name: str, kind: str) -> None:
    owner, told = owners()[kind]
    given, wanted = RIGHT[name]
    given = (i for i in wanted) if name == "generator" else given
    every = told(owner)
    parts = [every[i : i + 3] for i in range(0, len(every), 3)]
    assert told(owner.select(given)) == [part[i] for part in parts for i in wanted]


@pytest.mark.parametrize("kind", ["LMState", "State", "Clock", "Store"])
@pytest.mark.parametrize("name", WRONG)
def test_other_rows_are_refused(name: str, kind: str) -> None:
    owner, told = owners()[kind]
    before = told(owner)
    with pytest.raises(InputError, match="rows must be a list of whole numbers from 0 to 2|row .* does not exist"):
        owner.select(WRONG[name])
    assert told(owner) == before


def test_a_store_without_a_state_selects_alike() -> None:
    store = Store(tuple(torch.arange(6.0).view(3, 2) for _ in range(1)), (1,), np.array([2, 1, 2]))
    assert store.select([False, True, True]).count.tolist() == [1, 2]


@pytest.mark.parametrize("batch", [True, 2.0, "2", None, -1, torch.tensor(2), [2]])
def test_a_batch_is_a_whole_number(batch: Any) -> None:
    with pytest.raises(InputError, match="batch="):
        LAYER.init_state(batch)


@pytest.mark.parametrize("phase", [[0, 3], (0, 3), np.array([0, 3], np.uint8), torch.tensor([0, 3]), [np.int64(0), np.int32(3)]])
def test_phases_are_whole_numbers(phase: Any) -> None:
    state = LAYER.init_state(np.int64(2), phase=phase)
    assert state.phase.tolist() == [0, 3] and state.phase.dtype == np.int64 and len(state) == 2


NO_PHASES: list[Any] = [
    [True, False],
    torch.tensor([True, False]),
    [0.0, 1.0],
    [0, 4],
    [-1, 0],
    [0],
    0,
    [[0], [1]],
    [True, 1],
    "01",
]


@pytest.mark.parametrize("phase", NO_PHASES)
def test_other_phases_are_refused(phase: Any) -> None:
    with pytest.raises(InputError, match="phase must be 2 whole numbers from 0 to 3"):
        LAYER.init_state(2, phase=phase)


NO_FLAGS = [torch.ones(3, 4), torch.ones(3, 4, dtype=torch.long), np.ones((3, 4), bool), [[True] * 4] * 3, torch.ones(4) > 0]


@pytest.mark.parametrize("name", ["mask", "reset", "cut"])
@pytest.mark.parametrize("flag", NO_FLAGS)
def test_flags_are_truth_values(name: str, flag: Any) -> None:
    with pytest.raises(InputError, match=f"{name} must be a bool tensor"):
        LAYER(torch.randn(3, 4, 8), **{name: flag})


@pytest.mark.parametrize("key", ["position", "phase", "counts", "cuts"])
@pytest.mark.parametrize("wrong", [True, 1.0])
def test_a_saved_states_numbers_are_whole(key: str, wrong: Any) -> None:
    state = three()
    meta = state.meta()
    numbers = next(iter(meta["counts"].values())) if key == "counts" else meta[key]
    numbers[1] = wrong
    with pytest.raises(InputError):
        LAYER.load_state(state.tensors(), meta)


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.float32])
def test_a_saved_states_counters_keep_their_dtype(kind: torch.dtype) -> None:
    layer = st.MemoryCaching(8, heads=2, window=2, segment=4, router_dim=4, max_checkpoints=2)
    with torch.no_grad():
        _, state = layer(torch.randn(1, 20, 8))
    tensors = state.tensors()
    assert layer.load_state(tensors, state.meta()).meta() == state.meta()
    (name,) = [n for n in tensors if n.endswith("bank.span")]
    with pytest.raises(InputError, match="expected torch.int64"):
        layer.load_state(tensors | {name: tensors[name].to(kind)}, state.meta())


def test_only_states_are_put_together() -> None:
    with pytest.raises(InputError, match="dict"):
        st.LMState.cat([three(), {}])
    assert len(st.LMState.cat(s for s in (three(), three()))) == 6
