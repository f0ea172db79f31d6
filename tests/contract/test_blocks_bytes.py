"""cache="blocks": rounding, budgets, and choices in two stages; the laws are in test_blocks.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.models.stream_state import LMState

from .common import close, differ, feed
from .test_blocks import CASES, IDS, LENGTH, STAGES, config, make, the_model, truth


@pytest.mark.parametrize("name", [name for name in CASES if "two-stages" in name])
def test_candidates_are_not_always_the_best(name: str) -> None:
    """From the stated number of tokens on the choice is another one, and before it the exact one."""
    options = CASES[name]["cache_options"]
    exact = make(CASES[name] | dict(cache_options={key: x for key, x in options.items() if key not in STAGES}))(IDS[:1])[0][0]
    first = options["coarse_from"] + CASES[name]["window"] - 1 + CASES[name]["sinks"]
    close(exact[:first], truth(name)[0, :first])
    assert differ(exact, truth(name)[0])


def test_stages_that_do_not_fit() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        (dict(coarse=3), "coarse=3 must divide segment=4"),
        (dict(coarse=1), "a multiple of 2"),
        (dict(coarse=4, candidates=1), "candidates=1 must be a whole number of at least 2"),
        (dict(coarse=4, candidates=4, max_checkpoints=9, evict="use"), "set coarse=0, or evict='age'"),
        (dict(exact=4, max_checkpoints=9, evict="use"), "set exact=0, or evict='age'"),
        (dict(votes=1, max_checkpoints=9, evict="use"), "set votes=0, or evict='age'"),
        (dict(exact=1), "exact=1 must be 0, or at least top_k=2"),
    ]
    for keys, said in wrong:
        with pytest.raises(st.errors.ConfigError, match=said):
            st.LMConfig.from_dict(config(**keys))


@pytest.mark.parametrize("name", [name for name in CASES if "used-held" in name])
def test_the_least_used_are_not_always_the_oldest(name: str) -> None:
    assert differ(make(CASES[name] | dict(evict="age"))(IDS)[0][:, 20:], truth(name)[:, 20:])


@pytest.mark.parametrize("name", [name for name in CASES if "in-" in name])
def test_rounding_is_seen(name: str) -> None:
    """Blocks that are chosen are rounded, and nothing before them."""
    exact = make(CASES[name] | dict(checkpoint_dtype="float32"))(IDS[:1])[0][0]
    first_block = CASES[name]["window"] - 1 + CASES[name]["sinks"] + CASES[name]["segment"]
    close(exact[:first_block], truth(name)[0, :first_block])
    assert differ(exact[first_block:], truth(name)[0, first_block:])


@pytest.mark.parametrize("kind,most", [("float32", 1.0), ("bfloat16", 0.55), ("int8", 0.4)])
def test_bytes_of_rounded_blocks(kind: str, most: float) -> None:
    """A state in float32: keys, values and routing keys together."""
    keys = config(checkpoint_dtype=kind, heads=1, head_dim=64, d_model=64)
    _, state = make(keys).float()(IDS[:1])
    layer = state.layers[0]
    whole = layer.kept.width * 4 * 64 * (2 * 4 + 4 / 2 * 2)
    assert layer.kept.width == 9 and layer.kept.nbytes + layer.means.nbytes <= most * whole
    bits = {x.dtype for x in layer.kept.leaves}
    assert bits == {"float32": {torch.float32}, "bfloat16": {torch.bfloat16}, "int8": {torch.int8, torch.float32}}[kind]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("evict", ["age", "use"])
def test_blocks_take_no_more_than_their_bytes(kind: str, evict: str) -> None:
    """A full budget leaves no room for one block more; steps and calls hold equally many."""
    keys = config(2, 4, segment=2, evict=evict, checkpoint_dtype=kind)

    def taken(state: LMState) -> int:
        layer: Any = state.layers[0]
        return sum(x.nbytes for x in (layer.kept, layer.means, layer.tally) if x is not None)

    each = taken(make(keys | dict(max_checkpoints=1)).float()(IDS[:1])[1])
    for most in (each, 3 * each - 1, 3 * each):
        model = make(keys | dict(max_bytes=most)).float()
        for calls in ([], range(1, LENGTH)):
            state = feed(model, IDS, None, calls)[1]
            assert state.layers[0].kept.count.tolist() == [most // each] * 3
            assert taken(state) == 3 * each * (most // each)
    with pytest.raises(st.errors.ConfigError, match=f"max_bytes={each - 1} .* at least {each}"):
        make(keys | dict(max_bytes=each - 1))
    with pytest.raises(st.errors.ConfigError, match="cannot be added; choose evict='age' or 'use'"):
        make(keys | dict(max_bytes=each, evict="merge"))


def test_memory_is_never_far_ahead_of_many_blocks() -> None:
    """Up to 1,024 places are ahead, and from 4,096 blocks on a quarter more than there are."""
    model = make(config(1, 4, segment=1, router="subblock:1", top_k=1, window=1)).float()
    state, ids = None, torch.zeros(1, 500, dtype=torch.long)
    for _ in range(16):
        _, state = model(ids, state)
        layer = state.layers[0]
        assert layer.means.width <= layer.means.room <= layer.means.width + max(1024, layer.means.width // 4)


def test_no_tally_that_a_state_cannot_hold() -> None:
    model = the_model("used-held")
    _, state = model(IDS[:1])
    tensors, meta = state.tensors(), state.meta()
    model.load_state(tensors, meta)
    number, used = tensors["layers.0.tally.0"], tensors["layers.0.tally.1"]
    for name, wrong in (("0", number.flip(1)), ("0", number + 20), ("0", number - 20), ("1", used - 10**9)):
        with pytest.raises(ValueError, match="does not hold what position"):
            model.load_state(tensors | {f"layers.0.tally.{name}": wrong}, meta)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
def test_a_state_moves_to_another_dtype(kind: str) -> None:
    """As a model in that dtype would have it; codes stay."""
    keys = config(checkpoint_dtype=kind, sinks=1)
    _, state = make(keys)(IDS[:1, :20])
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        wanted = make(keys).to(dtype)(IDS[:1, :20])[1].tensors()
        moved = state.to(dtype).tensors()
        assert {n: x.dtype for n, x in moved.items()} == {n: x.dtype for n, x in wanted.items()}
    assert torch.equal(
        state.to(torch.float32).layers[0].means.leaves[0],
        state.layers[0].means.leaves[0].to(torch.float32 if kind == "float32" else torch.int8),
    )
