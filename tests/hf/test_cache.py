"""The cache: rows are selected, marks are gone back to exactly, and nothing else can be removed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from siltstone.errors import InputError
from siltstone.hf import SiltstoneCache

from .runs import folder, loaded
from .tiny import IDS

TEXT = IDS % 256


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return loaded(folder(tmp_path))


@torch.no_grad()
def read(model: Any, cache: SiltstoneCache, begin: int, end: int) -> torch.Tensor:
    return model(TEXT[: max(cache.batch_size, 2), begin:end], cache=cache).logits


def test_crop_goes_back_to_marks_exactly(model: Any) -> None:
    cache = SiltstoneCache()
    read(model, cache, 0, 37)
    assert cache.mark() == 37
    want = read(model, cache, 37, 50)
    read(model, cache, 50, 51)
    with pytest.raises(InputError, match=r"crop\(-3\) at 51 columns: .*goes back only to a mark \(37\)"):
        cache.crop(-3)
    with pytest.raises(InputError, match="mark"):
        cache.crop(14)
    cache.crop(0)
    assert cache.columns == 51
    for _ in range(2):  # a mark stays
        cache.crop(37 - cache.columns)
        assert cache.columns == 37 and torch.equal(read(model, cache, 37, 50), want)
    assert not cache.is_croppable  # transformers then never crops by itself


def test_marks_beyond_the_place_are_gone(model: Any) -> None:
    cache = SiltstoneCache()
    cache.mark()
    for end in (10, 20):
        read(model, cache, end - 10, end)
        cache.mark()
    cache.crop(-10)
    read(model, cache, 10, 25)
    with pytest.raises(InputError, match=r"mark \(0, 10\)"):
        cache.crop(-5)
    cache.crop(-25)
    assert cache.columns == 0 and cache.state is None


def test_rows_follow_the_beams_and_so_do_marks(model: Any) -> None:
    cache, twin = SiltstoneCache(), SiltstoneCache()
    read(model, cache, 0, 20)
    cache.mark()
    read(model, cache, 20, 30)
    state = cache.state
    cache.reorder_cache(torch.tensor([0, 1]))
    assert cache.state is state  # unchanged: no copy
    cache.reorder_cache(torch.tensor([1, 1, 0]))
    ids = TEXT[[1, 1, 0]]
    with torch.no_grad():
        model(ids[:, :30], cache=twin)
        want = model(ids[:, 30:40], cache=twin).logits
        assert torch.allclose(model(ids[:, 30:40], cache=cache).logits, want, atol=1e-5)
        cache.crop(-20)
        assert torch.allclose(model(ids[:, 20:40], cache=cache).logits[:, 10:], want, atol=1e-5)
    cache.batch_repeat_interleave(2)
    assert cache.batch_size == 6
    cache.reset()
    assert (cache.batch_size, cache.columns, cache.nbytes) == (-1, 0, 0)


def test_a_copy_is_independent(model: Any) -> None:
    cache = SiltstoneCache()
    read(model, cache, 0, 30)
    cache.mark()
    twin = copy.deepcopy(cache)
    want = read(model, cache, 30, 44)
    assert (cache.columns, twin.columns) == (44, 30) and torch.equal(read(model, twin, 30, 44), want)
    twin.crop(-14)
    assert torch.equal(read(model, twin, 30, 44), want)


def test_what_transformers_asks(model: Any) -> None:
    cache = SiltstoneCache()
    assert not cache.has_previous_state() and not cache.is_initialized
    read(model, cache, 0, 9)
    assert (cache.get_seq_length(), cache.get_query_offset(), cache.get_max_length()) == (9, 9, -1)
    assert cache.get_mask_sizes(3, 0) == (12, 0) and cache.is_linear == [False] and not cache.is_compileable
    assert cache.has_previous_state() and cache.is_initialized and len(cache) == 2
    with pytest.raises(InputError, match="models of Siltstone"):
        cache.update(torch.ones(1), torch.ones(1), 0)


def test_gradients_pass_through_a_cache(model: Any) -> None:
    """A call in training does not write into the state that an earlier call returned."""
    cache = model(TEXT[:, :20], use_cache=True).cache
    model(TEXT[:, 20:40], cache=cache).logits.square().mean().backward()
    parts = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(TEXT[:, :40]).logits[:, 20:].square().mean().backward()
    for a, p in zip(parts, model.parameters(), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-3, atol=1e-6)
