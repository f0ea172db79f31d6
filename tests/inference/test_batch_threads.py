"""A batch that one thread runs while others queue work, join, fork and leave."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import siltstone as st
from siltstone.text import ByteTokenizer

CLIENTS, ROUNDS = 6, 3


def client(batch: st.Batch, number: int, out: dict[int, Any]) -> None:
    member, got = batch.join(), []
    for turn in range(ROUNDS):
        member.feed(f"client {number}, turn {turn}: some words of it\n")
        twin = member.fork()
        got.append("".join(member.generate(6, seed=number)))
        got.append(twin.generate(6, seed=number).result())
        assert twin.leave().position == member.position
    mark = member.snapshot()
    member.generate(4).result()
    assert member.rollback(mark) == 0
    out[number] = got, member.leave().position


@pytest.mark.parametrize("driven", [True, False])
def test_clients_in_threads(driven: bool, model: st.LM, tok: ByteTokenizer) -> None:
    """driven: one thread makes all turns; otherwise whoever waits makes them."""
    batch, stop, out = st.Batch(st.freeze(model), tok, slots=2 * CLIENTS, slice=16), threading.Event(), {}
    runner = threading.Thread(target=batch.run, args=(stop.is_set,))
    if driven:
        runner.start()
    threads = [threading.Thread(target=client, args=(batch, i, out)) for i in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    if driven:
        runner.join(60)
    assert len(out) == CLIENTS and len(batch) == 0
    for number, (got, position) in out.items():
        session, want = st.Session(model, tok), []
        for turn in range(ROUNDS):
            session.append(f"client {number}, turn {turn}: some words of it\n")
            want += ["".join(session.generate(6, seed=number))] * 2
        assert got == want and position == session.position
