"""Sessions: reading, scoring, writing, forks, going back."""

from __future__ import annotations

import gc
import math
import signal
from typing import Any

import numpy as np
import pytest
import torch

import siltstone as st
from siltstone.errors import InputError, PositionError, TokenizerError
from siltstone.inference import session as session_module
from siltstone.inference import tokens
from siltstone.text import ByteTokenizer

TEXT = "The moving finger writes; and, having writ, moves on. " * 3


def test_a_new_session_is_empty(model: st.LM, tok: ByteTokenizer) -> None:
    s = st.Session(model, tok)
    assert s.position == 0 and s.logits is None
    s.append("")
    s.append([])
    assert s.position == 0 and s.logits is None and s.counters.appended == 0


def test_append_is_one_call_of_the_model(model: st.LM, tok: ByteTokenizer) -> None:
    s = st.Session(model, tok)
    s.append(TEXT)
    with torch.no_grad():
        logits, state = model(torch.tensor([tok.encode(TEXT)]))
    torch.testing.assert_close(s.logits, logits[0, -1])
    assert s.position == len(TEXT.encode()) == s.counters.appended
    assert s.nbytes == state.nbytes + logits[0, -1].nbytes


@pytest.mark.parametrize("kind", ["text", "list", "tensor", "row", "array", "int32"])
def test_text_and_ids_say_the_same(model: st.LM, tok: ByteTokenizer, same: Any, kind: str) -> None:
    ids = tok.encode("a text")
    given: Any = {
        "text": "a text",
        "list": ids,
        "tensor": torch.tensor(ids),
        "row": torch.tensor([ids]),
        "array": np.array(ids),
        "int32": torch.tensor(ids, dtype=torch.int32),
    }[kind]
    a, b = st.Session(model, tok), st.Session(model, tok)
    a.append("a text")
    b.append(given)
    assert same(a, b)


def test_a_long_append_is_cut_into_calls(session: st.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = session.fork()
    whole.append(TEXT)
    monkeypatch.setattr(tokens, "CHUNK", 7)
    widths = []
    features = session.model.features
    monkeypatch.setattr(session.model, "features", lambda ids, *a, **k: widths.append(ids.shape[1]) or features(ids, *a, **k))
    session.append(TEXT)
    assert max(widths) <= 7 and session.position == whole.position
    torch.testing.assert_close(session.logits, whole.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([0, 259], "ids contain 259"),
        ([-1], "ids contain -1"),
        (torch.tensor([0.5]), "whole numbers"),
        (torch.tensor([True]), "whole numbers"),
        (torch.zeros(2, 2, dtype=torch.long), "whole numbers"),
        (["a", "b"], "text or a list of ids"),
        (b"bytes", "text or a list of ids"),
        (None, "text or a list of ids"),
        ([10**30], "text or a list of ids"),
        ("\ud800", "UTF-8"),
    ],
)
def test_bad_ids_leave_the_session_as_it_was(session: st.Session, same: Any, bad: Any, words: str) -> None:
    before = session.fork()
    for call in (session.append, session.score, session.append_scored):
        with pytest.raises(InputError, match=words):
            call(bad)
    assert same(session, before)


def test_bad_ids_behind_good_chunks_are_refused_at_once(session: st.Session, same: Any) -> None:
    before = session.fork()
    with pytest.raises(InputError):
        session.append([1] * 600 + [999])
    assert same(session, before)


def test_a_tokenizer_with_more_ids_than_the_model(make_model: Any, tok: ByteTokenizer) -> None:
    with pytest.raises(TokenizerError, match="259 ids"):
        st.Session(st.LM(st.presets.nano(100, depth=1)), tok)


def test_score(session: st.Session, same: Any, tok: ByteTokenizer) -> None:
    before = session.fork()
    scores = session.score(TEXT)
    assert same(session, before) and len(scores) == len(tok.encode(TEXT))
    by_hand = []
    for i in tok.encode(TEXT[:12]):
        assert before.logits is not None
        by_hand.append(torch.log_softmax(before.logits, -1)[i])
        before.append([i])
    torch.testing.assert_close(scores[:12], torch.stack(by_hand), rtol=1e-4, atol=1e-4)
    assert torch.equal(session.append_scored(TEXT), scores)
    assert len(session.score("")) == 0


def test_the_first_token_of_all_is_predicted_by_nothing(model: st.LM, tok: ByteTokenizer) -> None:
    s = st.Session(model, tok)
    scores = s.score("abc")
    assert s.position == 0 and s.logits is None
    assert math.isnan(scores[0]) and torch.isfinite(scores[1:]).all()


def test_generate_appends_before_it_yields(session: st.Session, tok: ByteTokenizer) -> None:
    start, lengths = session.position, []
    for piece in session.generate(20, temperature=0):
        lengths.append(len(piece))
        assert session.position > start
    assert session.position == start + 20 == session.counters.appended
    assert lengths


def test_greedy_writing_takes_the_likeliest(session: st.Session, tok: ByteTokenizer) -> None:
    other, ids = session.fork(), []
    text = "".join(session.generate(12, temperature=0))
    for _ in range(12):
        assert other.logits is not None
        ids.append(int(other.logits[:256].argmax()))
        other.append(ids[-1:])
    assert text == tok.decode(ids)


def test_the_seed_decides(session: st.Session) -> None:
    forks = [session.fork() for _ in range(4)]
    seeds = [1, 1, 2, None]
    a, b, c, d = ("".join(f.generate(12, seed=s)) for f, s in zip(forks, seeds, strict=True))
    assert a == b and len({a, c, d}) == 3
    assert "".join(session.fork().generate(12)) == d == "".join(session.generate(12, seed=0))


def test_two_halves_are_the_whole(session: st.Session, same: Any) -> None:
    other = session.fork()
    for _ in session.generate(20, seed=3):
        pass
    for seed in (3, None):
        for _ in other.generate(10, seed=seed):
            pass
    assert same(session, other)


def test_stop_strings_are_not_given_out(session: st.Session) -> None:
    text = "".join(session.fork().generate(60, seed=5))
    stop = text[20:23]
    other = session.fork()
    assert "".join(session.fork().generate(60, stop=None, seed=5)) == text
    assert "".join(other.generate(60, stop=["never this", stop], seed=5)) == text[: text.index(stop)]
    assert other.position < session.position + 60


def _only(session: st.Session, ids: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler gives these ids."""
    given = iter(ids)
    monkeypatch.setattr(session_module, "sample", lambda *a, **k: next(given))


def test_characters_are_whole(session: st.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "é東😀x"
    _only(session, [*text.encode(), 0xF0, 0x9F], monkeypatch)
    assert list(session.generate(len(text.encode()) + 2)) == ["é", "東", "😀", "x", "\ufffd"]


def test_the_end_token_ends_it_and_is_not_appended(
    session: st.Session, tok: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = session.position
    _only(session, [97, 98, 257, 99], monkeypatch)
    assert "".join(session.generate(10)) == "ab"
    assert session.position == start + 2


def test_specials_are_never_sampled(session: st.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(session_module, "sample", lambda logits, *a, **k: seen.append(logits) or 97)
    list(session.generate(1))
    assert torch.isinf(seen[0][[256, 258]]).all() and torch.isfinite(seen[0][257])


def test_an_empty_prompt(model: st.LM, tok: ByteTokenizer) -> None:
    with pytest.raises(InputError, match="prompt is empty"):
        st.Session(model, tok).generate()


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": -1},
        {"max_new_tokens": 1.5},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_p": 0},
        {"top_p": 1.1},
        {"stop": [""]},
        {"stop": [3]},
        {"seed": "x"},
        {"seed": 2**64},
    ],
)
def test_bad_options(session: st.Session, bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(bad))):
        session.generate(**bad)


def test_forks_are_apart(session: st.Session, same: Any) -> None:
    session.notes["a"] = [1]
    twin, reference = session.fork(), session.fork()
    for _ in session.generate(20, seed=1):  # single tokens, which may be written in place
        pass
    session.append("and a lot of other text, so that segments are sealed")
    session.notes["a"].append(2)
    assert same(twin, reference) and twin.notes == {"a": [1]}
    twin.append("x")
    reference.append("x")
    assert same(twin, reference)


def test_two_interleaved_sessions(model: st.LM, tok: ByteTokenizer, same: Any) -> None:
    words = [w + " " for w in TEXT.split()]
    alone, a, b = (st.Session(model, tok) for _ in range(3))
    for w in words:
        alone.append(w)
    for w in words:
        a.append(w)
        b.append(w[::-1])
    assert same(a, alone) and not same(a, b)


def test_rollback_to_a_mark(session: st.Session, same: Any) -> None:
    before = session.fork()
    mark = session.snapshot()
    first = "".join(session.generate(25, seed=4))
    assert session.rollback(mark) == 0 and same(session, before)
    assert "".join(session.generate(25, seed=4)) == first
    assert session.rollback(mark) == 0 and session.counters.recomputed == 0  # a mark serves more than once


def test_a_mark_brings_the_sampler_back(session: st.Session) -> None:
    list(session.generate(3, seed=9))
    mark = session.snapshot()
    first = "".join(session.generate(20))
    session.rollback(mark)
    assert "".join(session.generate(20)) == first


def test_rollback_to_a_position(session: st.Session) -> None:
    start = session.position
    early = session.snapshot()
    session.append("twelve bytes")
    late = session.snapshot()
    session.append("and some more")
    reference = session.fork()
    assert reference.rollback(start + 14) == 2  # from the late mark
    assert session.rollback(start + 5) == 5  # from the early one
    assert session.position == start + 5 and session.counters.recomputed == 5
    again = session.fork()
    again.rollback(early)
    again.append("twelv")
    torch.testing.assert_close(session.logits, again.logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(PositionError, match="gone back to before it"):
        session.rollback(late)
    assert reference.rollback(late) == 0
    session.append("another way")
    assert session.rollback(start + 7) == 7 and session.rollback(start + 7) == 0
    assert session.counters.appended == session.position - 7 + len("twelve bytesand some more") - 5 + len("another way") + 5


def test_positions_that_cannot_be_gone_back_to(session: st.Session) -> None:
    start = session.position
    assert session.rollback(start) == 0
    with pytest.raises(PositionError, match="no mark is live"):
        session.rollback(start - 1)
    mark = session.snapshot()
    session.append("more")
    for bad in (start - 1, start + 5, -1):
        with pytest.raises(PositionError, match=f"from {start} on"):
            session.rollback(bad)
    with pytest.raises(InputError, match="mark or a position"):
        session.rollback("start")  # type: ignore[arg-type]
    assert session.position == start + 4 and mark.live


def test_marks_are_released(session: st.Session) -> None:
    start, size = session.position, session.nbytes
    early = session.snapshot()
    session.append("some text")
    late = session.snapshot()
    session.append("more")
    assert session._trail.nbytes == 13 * 8
    early.release()
    assert session.rollback(start + 10) == 1 and session._trail.nbytes == 8
    with pytest.raises(PositionError, match="was released"):
        session.rollback(early)
    with pytest.raises(PositionError, match=f"from {start + 9} on"):
        session.rollback(start)
    del late
    gc.collect()
    session.append("x")
    assert session._trail.nbytes == 0 and session._trail.live() == []
    assert session.nbytes < 2 * size


def test_a_foreign_mark(session: st.Session, model: st.LM, tok: ByteTokenizer) -> None:
    mark = st.Session(model, tok).snapshot()
    with pytest.raises(PositionError, match="another session"):
        session.rollback(mark)


def test_a_fork_shares_the_marks_made_before(session: st.Session, same: Any) -> None:
    mark, start = session.snapshot(), session.fork()
    session.append("a way")
    twin = session.fork()
    twin.append("goes on")
    assert twin.rollback(start.position + 2) == 2 and session.position == start.position + 5
    assert twin.rollback(mark) == 0 and same(twin, start)


def test_back_to_the_empty_session(model: st.LM, tok: ByteTokenizer) -> None:
    s = st.Session(model, tok)
    mark = s.snapshot()
    s.append("text")
    assert s.rollback(mark) == 0 and s.position == 0 and s.logits is None
    with pytest.raises(InputError, match="prompt is empty"):
        s.generate()


def test_a_step_that_fails_halfway_is_known(session: st.Session, monkeypatch: pytest.MonkeyPatch, same: Any) -> None:
    mark, before = session.snapshot(), session.fork()
    with monkeypatch.context() as patch:
        patch.setattr(session.model, "head", lambda h: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.append("several tokens")
        assert same(session, before)
        with pytest.raises(ZeroDivisionError):
            session.append("x")  # one token may be written in place
    for call in (
        lambda: session.append("x"),
        lambda: session.generate(),
        lambda: session.rollback(3),
        session.fork,
        lambda: session.score("x"),
    ):
        with pytest.raises(InputError, match="failed before its end"):
            call()
    session.rollback(mark)
    session.append("goes on")
    before.append("goes on")
    assert same(session, before)


def test_ctrl_c_waits_for_the_end_of_a_step(session: st.Session, monkeypatch: pytest.MonkeyPatch, same: Any) -> None:
    reference, head = session.fork(), session.model.head
    reference.append("x")
    with monkeypatch.context() as patch:
        patch.setattr(session.model, "head", lambda h: signal.raise_signal(signal.SIGINT) or head(h))
        with pytest.raises(KeyboardInterrupt):
            session.append("x")
    assert same(session, reference) and session.counters.appended == reference.counters.appended


def test_float64_and_bfloat16_models(make_model: Any, tok: ByteTokenizer) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        s = st.Session(make_model().to(dtype), tok)
        s.append("some text that is longer than a window and a segment")
        assert s.logits is not None and s.logits.dtype == dtype
        assert s.score("abc").dtype == torch.float32
        assert "".join(s.generate(5, seed=0)) is not None
