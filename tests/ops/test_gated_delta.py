"""The equation of ops/gated_delta.py."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from siltstone.ops import gated_delta

from .rule import KEY, VALUE, Case, Rand, Rule, laws, unit


def rule(most: float) -> Rule:
    def inputs(rand: Rand) -> dict:
        gates = {"log_decay": logsigmoid(rand() + 2), "beta": most * rand().sigmoid()}
        return {"key": unit(rand(KEY)), "value": rand(VALUE), **gates}

    return Rule(gated_delta.step, gated_delta.chunk, inputs)


TestLaws = laws(positive=rule(1.0), negative=rule(2.0))


def test_a_step_is_its_equation() -> None:
    """S <- a (I - b k^T k) S + b k^T v."""
    (s, k, v), (a, b) = (torch.randn(*x, dtype=torch.float64) for x in ((KEY, VALUE), (KEY,), (VALUE,))), (0.7, 1.6)
    wanted = a * (torch.eye(KEY) - b * torch.outer(k, k)) @ s + b * torch.outer(k, v)
    gates = torch.tensor(a, dtype=torch.float64).log(), torch.tensor(b, dtype=torch.float64)
    torch.testing.assert_close(gated_delta.step(s, k, v, *gates), wanted, rtol=1e-12, atol=1e-12)


def test_what_writes_make_of_a_difference_of_states() -> None:
    """Two starts and the same writes: the ends differ by `follow` of how the starts differ."""
    case, drawn = Case(segment_chunks=2), rule(2.0).drawn(Case(segment_chunks=2))
    start, inputs, *_ = drawn
    with torch.no_grad():
        reader, ends = gated_delta.chunk(start, **inputs, size=case.size)
        others = gated_delta.chunk(2 * start, **inputs, size=case.size)[1]
        apart = start.unsqueeze(1)
        for segment_chunk in range(case.segment_chunks):  # one segment chunk a group: those of this segment chunk
            alone = {name: x[:, segment_chunk : segment_chunk + 1] for name, x in inputs.items()}
            reader, _ = gated_delta.chunk(start, **alone, size=case.size)
            apart = reader.propagate(slice(None), apart)
            torch.testing.assert_close(apart[:, 0], (others - ends)[:, segment_chunk], rtol=1e-10, atol=1e-11)
