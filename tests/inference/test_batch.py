"""Sessions in a batch do what they do alone."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from tests.inference.conftest import small_model
from tests.torture.factor import FACTOR

from .scripts import Found, alone, compare, script, together

SESSIONS = 120
TINY: dict[str, Any] = {"d_model": 16, "segment": 6, "window": 5, "router_dim": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "gated": dict(memory="gated", cache="gated"),
    "logarithmic": dict(segments="logarithmic", memory="gated_delta"),
    "budget": dict(cache="sparse", top_k=2, max_checkpoints=3, evict="use"),
    "sparse": dict(cache="sparse", top_k=2, sinks=2, short_conv=3),
    "content": dict(segments="content", cache="gated"),
    "hybrid": dict(pattern="ma"),
    "anchors, pairs": dict(cache="gated", router="anchor:2", segments="constant", cache_options=dict(exact=2)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_scripts_in_a_batch_see_what_they_see_alone(name: str, tok: st.ByteTokenizer, tmp_path: Path) -> None:
    model, draw = st.freeze(small_model(**(TINY | CONFIGS[name])).double()), random.Random(name)
    count = int(FACTOR**0.5 * SESSIONS / len(CONFIGS)) + 1
    scripts = [script(draw) for _ in range(count)]
    wanted = [alone(st.Session(model, tok), ops, tmp_path / "a.silt") for ops in scripts]
    batch, found, running, begun = st.Batch(model, tok, slots=24, slice=24), [], [], 0
    while begun < count or running:
        if begun < count and len(running) < 12 and draw.random() < 0.5:
            found.append(Found())
            running.append(together(batch, batch.join(), scripts[begun], tmp_path / f"{begun % 12}.silt", found[-1]))
            begun += 1
        elif running:
            one = draw.choice(running)
            if next(one, "ended") == "ended":
                running.remove(one)
        if draw.random() < 0.5:
            batch.turn()
    assert len(batch) == 0 and not batch.turn()
    for mine, want in zip(found, wanted, strict=True):
        compare(mine, want)


def texts(ages: list[int], words: list[str]) -> list[str]:
    return [(word * age)[:age] for word, age in zip(words, ages, strict=True)]


def beside(model: st.LM, others: list[str], busy: bool) -> list[torch.Tensor]:
    """The logits of the session in slot 1 of 4 at every token that it writes, beside three others."""
    batch = st.Batch(model, st.ByteTokenizer(), slots=4, slice=16)
    members = [batch.join() for _ in range(4)]
    one, rest = members[1], [members[0], *members[2:]]
    for member, text in zip(rest, others, strict=True):
        member.feed(text)
    one.feed("the first words of it, at its own pace\n")
    batch.run()
    writing = one.generate(20, seed=1)
    for member in rest[: 3 if busy else 1]:
        member.generate(30, seed=2)
    out = [one.logits]
    while not writing.done:
        batch.turn()
        out.append(one.logits)
    return out  # type: ignore[return-value]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_the_other_rows_hold_changes_no_bit(name: str) -> None:
    model = st.freeze(small_model(**(TINY | CONFIGS[name])))
    mine = beside(model, texts([30, 30, 30], ["abc ", "xyz", "q\n"]), busy=True)
    same = beside(model, texts([30, 30, 30], ["hello", "zz\n", "12 34"]), busy=False)
    # where text ends segments, others' text decides for how many checkpoints there is room, as in `aged` below
    bound = 1e-4 if name == "content" else 0.0
    assert len(mine) == len(same) and max(float((x - y).abs().max()) for x, y in zip(mine, same, strict=True)) <= bound
    aged = beside(model, texts([90, 2, 51], ["hello", "zz\n", "12 34"]), busy=True)  # with room for more of the others' text
    assert len(mine) == len(aged) and max(float((x - y).abs().max()) for x, y in zip(mine, aged, strict=True)) < 1e-4


def test_slots_and_buckets(tok: st.ByteTokenizer, model: st.LM) -> None:
    """A session keeps its slot; a step has as few rows of 1, 4, 16, ... as hold the highest slot."""
    batch = st.Batch(model, tok, slots=6)
    members = [batch.join() for _ in range(6)]
    sizes = []
    for leaving in (5, 4, 0, 1, 2):
        members[3].feed([97])
        batch.run()
        sizes.append(batch._turns.rows.size)
        assert [m.slot for m in members if not m._seat.gone] == [i for i, m in enumerate(members) if not m._seat.gone]
        members[leaving].leave()
    assert sizes == [16, 16, 4, 4, 4] and members[3].position == 5
    assert batch.join().slot == 0 and len(batch) == 2


def test_long_texts_share_a_slice_and_keep_nobody_waiting(tok: st.ByteTokenizer, model: st.LM) -> None:
    batch = st.Batch(model, tok, slice=10)
    writer, *readers = [batch.join() for _ in range(4)]
    writer.feed([97])
    writing = writer.generate(30, seed=4)
    for reader in readers:
        reader.feed([98] * 25)
    before, shares = 0, []
    while any(reader.position < 25 for reader in readers):
        written = writer.position
        assert batch.turn() and writer.position == written + 1
        now = sum(reader.position for reader in readers)
        shares.append(now - before)
        before = now
    assert max(shares) <= 10 and sum(shares) == 75 and len(shares) <= 12
    batch.run()
    assert writing.done and len(writing.tokens) <= 30


def test_results_arrive_as_they_come(tok: st.ByteTokenizer, model: st.LM) -> None:
    batch, alone = st.Batch(model, tok), st.Session(model, tok)
    member = batch.join()
    read, writing = member.feed("Some words.", scored=True), member.generate(12, seed=7)
    scores = alone.append_scored("Some words.")
    assert torch.allclose(read.result(), scores, atol=1e-5, equal_nan=True) and not writing.tokens
    assert read.bits == pytest.approx(-float(scores.nansum()) / math.log(2), rel=1e-5)
    pieces = [next(writing), *writing]
    assert "".join(pieces) == writing.result() == "".join(alone.generate(12, seed=7))
    assert member.timeline.tokens == member.position == alone.position and member.counters.recomputed == 0
    assert (member.timeline.ms_per_token() or 0) > 0


def test_a_mark_outlives_other_turns(tok: st.ByteTokenizer, model: st.LM) -> None:
    batch = st.Batch(model, tok)
    member, other = batch.join(), batch.join()
    member.feed("a text that is long enough")
    other.feed("other")
    mark, want = member.snapshot(), member.generate(8, seed=1).result()
    other.generate(20, seed=2).result()
    assert member.rollback(mark) == 0 and member.generate(8, seed=1).result() == want
    assert member.rollback(mark.position + 3) == 3
    twin = member.fork()
    assert twin.position == mark.position + 3 and twin.counters.recomputed == 3
    assert twin.generate(5, temperature=0).result() == member.generate(5, temperature=0).result()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_shared_with_a_fork_outside_is_claimed_first(name: str, tok: st.ByteTokenizer) -> None:
    """Session, fork and mark share their sealed states; each goes on by itself."""
    model = st.freeze(small_model(**(TINY | CONFIGS[name])).double())
    session = st.Session(model, tok)
    session.append("words that fill some segments\n and more")
    twin, mark = session.fork(), session.snapshot()
    want = "".join(session.fork().generate(20, seed=1))
    member = st.Batch(model, tok, slots=1).join(session)
    writing, mine = member.generate(20, seed=2), twin.generate(20, seed=1)
    out = ""
    while not writing.done:
        member._batch.turn()
        out += next(mine, "")
    assert out + "".join(mine) == want
    assert member.rollback(mark) == 0 and member.generate(20, seed=1).result() == want


def test_a_copy_is_a_session_outside(model: st.LM, tok: st.ByteTokenizer) -> None:
    with st.Batch(model, tok, slots=1) as batch:
        a = batch.join()
        a.feed("Some words. ")
        twin = a.copy()  # after the queued work, and without a slot
        assert twin.position == a.position == 12 and len(batch) == 1
        wanted = twin.fork()
        text = a.generate(5, temperature=0)
        assert "".join(twin.generate(5, temperature=0)) == text.result()
        assert wanted.position == 12 and a.position == twin.position
