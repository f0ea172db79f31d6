"""Random scripts for sessions: the same calls on a session alone, and on a member of a batch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import siltstone as st
from siltstone.inference.batch import Member

WORDS = ["one\n", "two ", "é", "a longer sentence, and its end.\n", "\n\n", "x", "tail", "of words and of numbers 1 2 3 4 5 "]
Op = tuple[str, Any]
Seen = list[tuple[str, Any]]


def script(draw: random.Random, length: int = 5) -> list[Op]:
    """Calls of one session; it begins with a text."""
    ops: list[Op] = [("feed", text(draw))]
    kinds = ["feed", "feed", "score", "greedy", "sampled", "on", "snapshot", "back", "position", "fork", "away", "short"]
    for _ in range(length):
        kind = draw.choice(kinds)
        given: Any = None
        if kind in ("feed", "score"):
            given = text(draw)
        elif kind == "short":
            given = [draw.randrange(97, 110) for _ in range(draw.randrange(4))]
        elif kind in ("greedy", "sampled", "on"):
            given = draw.randrange(5), draw.randrange(1000)
        elif kind == "fork":
            given = script(draw, 2)
        ops.append((kind, given))
    return ops


def text(draw: random.Random) -> str:
    return "".join(draw.choice(WORDS) for _ in range(1 + draw.randrange(5)))


OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": dict(temperature=0),
    "sampled": dict(temperature=0.8, top_k=40, stop=["e", "qq"]),
    "on": dict(temperature=1.2, top_p=0.9),
}


def writing(kind: str, given: tuple[int, int]) -> dict[str, Any]:
    """Options of `generate`."""
    return OPTIONS[kind] | {"max_new_tokens": given[0]} | ({"seed": given[1]} if kind == "sampled" else {})


@dataclass
class Found:
    """What a script has seen, its forks behind it."""

    seen: Seen = field(default_factory=list)
    forks: list[Found] = field(default_factory=list)

    def end(self, s: st.Session | Member, sampler: torch.Tensor) -> None:
        assert s.logits is not None
        counters = s.counters.appended, s.counters.restored, s.counters.recomputed
        self.seen += [("position", s.position), ("logits", s.logits.clone()), ("sampler", sampler), ("counters", counters)]


def alone(session: st.Session, ops: list[Op], path: Path) -> Found:
    """The calls on a session by itself."""
    out, marks = Found(), []
    for kind, given in ops:
        if kind in ("feed", "short"):
            session.append(given)
        elif kind == "score":
            out.seen.append(("scores", session.append_scored(given)))
        elif kind in OPTIONS:
            out.seen.append(("text", "".join(session.generate(**writing(kind, given)))))
        elif kind == "snapshot":
            marks.append(session.snapshot())
        elif kind == "back" and marks:
            out.seen.append(("back", session.rollback(marks[-1])))
        elif kind == "position" and marks:
            out.seen.append(("again", session.rollback((marks[-1].position + session.position) // 2)))
        elif kind == "fork":
            out.forks.append(alone(session.fork(), given, path))
        elif kind == "away":
            session.save(path, overwrite=True)
            session, marks = st.Session.load(path, session.model, session.tokenizer), []
    out.end(session, session._sampler.get_state())
    return out


def together(batch: st.Batch, member: Member, ops: list[Op], path: Path, out: Found) -> Iterator[None]:
    """The calls on a member, which is left to others after each; its forks' scripts are run inside."""
    marks: list[Any] = []
    for kind, given in ops:
        if kind in ("feed", "short"):
            member.feed(given)
        elif kind == "score":
            out.seen.append(("scores", member.feed(given, scored=True)))
        elif kind in OPTIONS:
            out.seen.append(("text", member.generate(**writing(kind, given))))
        elif kind == "snapshot":
            marks.append(member.snapshot())
        elif kind == "back" and marks:
            out.seen.append(("back", member.rollback(marks[-1])))
        elif kind == "position" and marks:
            here = member.snapshot().position
            out.seen.append(("again", member.rollback((marks[-1].position + here) // 2)))
        elif kind == "fork":
            out.forks.append(Found())
            yield from together(batch, member.fork(), given, path, out.forks[-1])
        elif kind == "away":
            member.save(path, overwrite=True)
            saved, left = st.Session.load(path, batch.model, batch.tokenizer), member.leave()
            assert torch.equal(saved.logits, left.logits)  # type: ignore[arg-type]
            assert_equal(saved._state, left._state)
            member, marks = batch.join(saved), []
        yield
    session = member.leave()
    out.end(session, session._sampler.get_state())


def assert_equal(a: Any, b: Any) -> None:
    """Two states are equal, bit for bit."""
    x, y = a.tensors(), b.tensors()
    assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) and a.meta() == b.meta()


def compare(found: Found, want: Found, bound: float = 1e-10) -> None:
    """Everything that was seen is equal; numbers up to rounding."""
    assert [kind for kind, _ in found.seen] == [kind for kind, _ in want.seen]
    for (kind, x), (_, y) in zip(found.seen, want.seen, strict=True):
        x = x.result() if hasattr(x, "result") else x
        if kind == "scores":
            assert torch.allclose(x, y, atol=1e-5, equal_nan=True)
        elif kind == "logits":
            assert float((x - y).abs().max()) <= bound * max(1.0, float(y.abs().max()))
        elif kind == "sampler":
            assert torch.equal(x, y)
        else:
            assert x == y, kind
    for a, b in zip(found.forks, want.forks, strict=True):
        compare(a, b, bound)
