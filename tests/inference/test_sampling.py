"""Choosing a token, and holding back what may become a stop string."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from siltstone.errors import CheckpointError, InputError
from siltstone.inference.sampling import StopStrings, sample

LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.0, 0.0])


def drawn(count: int, **options: float) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    ids = [sample(LOGITS, generator, **options) for _ in range(count)]  # type: ignore[arg-type]
    return [ids.count(i) / count for i in range(5)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_shares_follow_the_softmax(temperature: float) -> None:
    expected = torch.softmax(LOGITS / temperature, 0).tolist()
    assert drawn(3000, temperature=temperature) == pytest.approx(expected, abs=0.03)


def test_temperature_0_takes_the_likeliest_and_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample(LOGITS, generator, 0) == 1 and torch.equal(generator.get_state(), before)


def test_top_k_and_top_p_cut_the_choice() -> None:
    p = torch.softmax(LOGITS, 0).tolist()
    assert drawn(1000, top_k=2) == pytest.approx([0, p[1] / (p[1] + p[3]), 0, p[3] / (p[1] + p[3]), 0], abs=0.04)
    assert drawn(100, top_k=1)[1] == drawn(100, top_p=0.01)[1] == 1
    assert {i for i, share in enumerate(drawn(1000, top_p=p[1] + 0.01)) if share} == {1, 3}
    assert all(drawn(2000, top_p=1.0, top_k=99))


def test_impossible_tokens_are_never_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([-math.inf, 0.0, -math.inf])
    assert {sample(logits, generator) for _ in range(50)} == {1}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        sample(torch.tensor([0.0, bad]), torch.Generator())


@settings(deadline=None, max_examples=200)
@given(some.lists(some.text("ab\n", max_size=4), max_size=8), some.lists(some.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_stop_strings_are_found_wherever_they_are_cut(parts: list[str], stops: list[str]) -> None:
    text, hold, out, met = "".join(parts), StopStrings(stops), "", False
    for part in parts:
        piece, met = hold.push(part)
        out += piece
        assert not any(s in out for s in stops)
        if met:
            break
    if not met:
        out += hold.finish()
    ends = [text.index(s) + len(s) for s in stops if s in text]
    if not ends:
        assert out == text and not met
        return
    assert met and text.startswith(out)
    first = min(ends)  # one is complete at the earliest here, whatever the pieces
    assert len(out) < first


@pytest.mark.parametrize("stop", [5, "", ["a", ""], [1], b"x"])
def test_stops_that_are_no_text_are_refused(stop: object) -> None:
    with pytest.raises(InputError, match="stop="):
        StopStrings(stop)  # type: ignore[arg-type]


def test_one_stop_string_may_be_given_bare() -> None:
    assert StopStrings("ab").push("xaby") == ("x", True)
