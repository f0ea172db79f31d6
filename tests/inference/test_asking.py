"""`Session.asking`: blocks are chosen before every token, from where it is set on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import InputError, PositionError
from siltstone.inference.asking import read_prompt
from siltstone.inference.reader import Reader
from tests.inference.conftest import small_model

KEYS: dict[str, Any] = dict(
    pattern="m", cache="blocks", segment=4, router="subblock:2", top_k=2, window=8, position="rope",
    cache_options=dict(router_queries=3, route_every=8),
)  # fmt: skip
TEXT, ASKED = "The gate is green. " * 6, "Which gate is green? The gate is"


def told(model: Any) -> st.Session:
    s = st.Session(model, st.ByteTokenizer())
    s.append(TEXT)
    return s


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model(depth=2, **KEYS)


def after(s: st.Session, text: str = ASKED) -> torch.Tensor:
    s.append(text)
    assert s.logits is not None
    return s.logits


def test_it_changes_the_choice_from_there_on(model: Any) -> None:
    plain, asking = told(model), told(model)
    assert not asking.asking
    asking.asking = True
    assert asking.asking and torch.equal(asking.logits, plain.logits)  # type: ignore[arg-type]
    twin, stepped = asking.fork(), asking.fork()
    assert not torch.equal(after(asking), after(plain)) and torch.equal(after(twin), asking.logits)  # type: ignore[arg-type]
    for letter in ASKED:
        stepped.append(letter)
    torch.testing.assert_close(stepped.logits, asking.logits)
    asking.asking = False
    assert not asking.asking and twin.asking


@pytest.mark.parametrize("length", [1, 20, 256, 300, 600])
def test_the_end_of_a_prompt_chooses_before_every_token(model: Any, length: int) -> None:
    """The last 256 tokens, also of a session that asked before; what is streamed then does not."""
    text, s, want = (TEXT * 6)[:length], told(model), told(model)
    s.asking = True
    read_prompt(s, text)
    want.append(text[:-256])
    want.asking = True
    want.append(text[-256:])
    assert s.asking and torch.equal(s.logits, want.logits)  # type: ignore[arg-type]
    Reader(s)
    assert not s.asking


def test_files_keep_it(model: Any, tmp_path: Path) -> None:
    s = told(model)
    s.asking = True
    s.append(ASKED[:9])
    s.save(tmp_path / "a.silt")
    kept = st.Session.load(tmp_path / "a.silt", model, st.ByteTokenizer())
    assert kept.asking and torch.equal(after(kept, ASKED[9:]), after(s, ASKED[9:]))


def test_models_without_blocks_have_no_choice() -> None:
    s = told(small_model(depth=1))
    before = after(s.fork())
    s.asking = True
    assert not s.asking and torch.equal(after(s), before)


def test_going_back(model: Any) -> None:
    s = told(model)
    early = s.snapshot()
    s.append("So. ")
    at = s.position
    s.asking = True
    s.append("Why? ")
    assert s.rollback(at) == 4 and not s.asking  # what was read before is read in the same way
    s.asking = True
    late = s.snapshot()
    wanted = after(s, "Why? ")
    with pytest.raises(PositionError, match=f"`asking` was set at position {at}, after the mark at {early.position}"):
        late.release() or s.rollback(at + 2)  # type: ignore[func-returns-value]
    assert s.rollback(early) == 0 and not s.asking
    s.append("So. ")
    s.asking = True
    late = s.snapshot()
    s.append("Why? No.")
    assert s.rollback(at + 5) == 5 and s.asking and torch.equal(s.logits, wanted)  # type: ignore[arg-type]


def test_marks_at_one_position(model: Any) -> None:
    """Of two marks at one position, `asking` may be set at one of them."""
    s = told(model)
    early = s.snapshot()
    s.asking = True
    late = s.snapshot()
    wanted = after(s, "Why? No.").clone()
    s.append("So.")
    assert s.rollback(early.position + 8) == 8 and s.asking and torch.equal(s.logits, wanted)  # type: ignore[arg-type]
    s.rollback(early)
    with pytest.raises(PositionError, match="has gone back to before it"):
        s.rollback(late)


@pytest.mark.parametrize("wrong", ["no", 1, None, [True]])
def test_asking_is_true_or_false(model: Any, wrong: Any) -> None:
    s = told(model)
    with pytest.raises(InputError, match="must be True or False"):
        s.asking = wrong
    assert not s.asking


def test_members_of_a_batch(model: Any) -> None:
    """Beside a session that does not ask; the flag is that of the row."""
    asking, plain = told(model), told(model)
    asking.asking = True
    alone = [s.fork() for s in (asking, plain)]
    batch = st.Batch(model, st.ByteTokenizer(), slots=2)
    members = [batch.join(s) for s in (asking, plain)]
    texts = ["".join(m.generate(12, temperature=0.0)) for m in members]
    assert asking.asking and not plain.asking
    assert [m.asking for m in members] == [True, False]
    assert texts == ["".join(s.generate(12, temperature=0.0)) for s in alone]


def test_a_member_asks_after_what_is_queued(model: Any) -> None:
    """It is set between two turns, also after steps of all rows."""
    one, other = told(model), told(model)
    alone = one.fork()
    batch = st.Batch(model, st.ByteTokenizer(), slots=2)
    mine, beside = batch.join(one), batch.join(other)
    beside.generate(40, temperature=0.0)
    mine.feed(ASKED[:9])
    mine.asking = True
    text = mine.feed(ASKED[9:]), mine.generate(12, temperature=0.0)
    alone.append(ASKED[:9])
    alone.asking = True
    alone.append(ASKED[9:])
    assert "".join(text[1]) == "".join(alone.generate(12, temperature=0.0)) and not beside.asking
    with pytest.raises(InputError, match="must be True or False"):
        mine.asking = 1  # type: ignore[assignment]


def test_texts_longer_than_a_call(model: Any) -> None:
    """Calls of asking rows are cut short; the result is that of the tokens one by one."""
    one, each = told(model), told(model)
    one.asking = each.asking = True
    one.append(TEXT)
    for letter in TEXT:
        each.append(letter)
    torch.testing.assert_close(one.logits, each.logits)
