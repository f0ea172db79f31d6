"""Pretrained decoders whose full attention becomes attention to blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.errors import ConfigError
from siltstone.hf import import_run
from tests.cli.commands import good

from .test_given import STORIES, TEXT, with_stories
from .tiny import IDS, close, decoder, every_kind, saved, theirs

BLOCKS: dict[str, Any] = dict(
    pattern="m", cache="blocks", window=8, sinks=4, segment=8, top_k=20, router="subblock:2",
    cache_options=dict(router_queries=4, route_every=4),
)  # fmt: skip
WINDOWS = {"qwen2, some windows": "mww", "qwen3, window": "wmw", "smollm3, biases, windows": "mwm"}


def with_top_k(most: int, keys: dict[str, Any] = BLOCKS) -> dict[str, Any]:
    return keys | {"top_k": most}


@every_kind
def test_logits_are_those_of_full_attention(kind: str) -> None:
    """Every block is chosen; layers with a sliding window keep it."""
    if kind == "mistral, window":
        with pytest.raises(ConfigError, match="attends to the last 17 tokens only.*every layer of this decoder"):
            st.from_hf(decoder(kind), **BLOCKS)
        return
    changes: dict[str, Any] = BLOCKS
    if kind in WINDOWS:
        with pytest.raises(ConfigError, match=f"tokens only.*keep its window: pattern='{WINDOWS[kind]}'"):
            st.from_hf(decoder(kind), **BLOCKS)
        own = {key: BLOCKS[key] for key in ("window", "sinks")}
        plain = st.from_hf(decoder(kind))[0].cfg
        changes = {key: value for key, value in BLOCKS.items() if key not in own} | {"pattern": WINDOWS[kind]}
        changes["layers"] = {str(i): own for i in range(plain.depth) if WINDOWS[kind][i] == "m"}
    model, _ = st.from_hf(decoder(kind), **changes)
    want = theirs(decoder(kind))
    with torch.no_grad():
        close(model(IDS)[0], want)
        state, parts = None, []
        for part in IDS[:1].split([70, 1, 1, 50, 28], 1):
            y, state = model(part, state)
            parts.append(y)
        close(torch.cat(parts, 1), want[:1])
        few, _ = st.from_hf(decoder(kind), **with_top_k(2, changes))
        assert (few(IDS)[0] - want)[:, 60:].abs().max() > 1e-3 * want.abs().max()


def test_positions_do_not_grow_with_the_text() -> None:
    """Past its trained context, too: of equal tokens, the logits do not change with the position."""
    model, _ = st.from_hf(decoder("llama, llama3"), **with_top_k(3))
    session = torch.zeros(1, 64, dtype=torch.long)
    state, last = None, []
    with torch.no_grad():
        for _ in range(24):
            y, state = model(session, state)
            last.append(y[0, -1])
    close(last[-1], last[4], 1e-4)


def test_import_with_blocks(tmp_path: Path) -> None:
    """The command writes the same model, and a session of the run says which blocks it attended to."""
    keys = [f"{key}={value}" for key, value in BLOCKS.items() if key != "cache_options"]
    keys.append('cache_options={"router_queries": 4, "route_every": 4}')
    source = saved("llama", tmp_path / "hf")
    good("import", source, "--out", tmp_path / "run", *[word for key in keys for word in ("--set", key)])
    model, tok = st.load(tmp_path / "run")
    assert model.cfg == st.from_hf(source, **BLOCKS)[0].cfg
    s = st.Session(model, tok)
    s.append("the cat and the dog and the rat and the cat " * 4)
    found = s.attended()
    assert found and all(end - first == 8 and weight > 0 for first, end, weight in found)


def test_answers_end_with_passages(tmp_path: Path) -> None:
    """`siltstone ask` quotes the blocks of the document."""
    doc = tmp_path / "doc.txt"
    doc.write_text("".join(f"the cat and the dog of house {i}\n" for i in range(20)), "utf-8")
    import_run(saved("llama", tmp_path / "hf"), tmp_path / "run", **BLOCKS)
    given = "ask", tmp_path / "run", "--doc", doc, "--max-new-tokens", 5, "--plain"
    answer = json.loads(good(*given, "--json", "Which cat?").stdout.splitlines()[0])
    assert 0 < len(answer["passages"]) <= 5
    for one in answer["passages"]:
        first, end = one["bytes"]
        assert doc.read_bytes()[first:end].decode() == one["text"]
        assert one["tokens"][1] - one["tokens"][0] <= 4 * 8  # four blocks that touch are one passage
    assert f"[1] {doc}, line" in good(*given, "Which cat?").stdout


@with_stories
@pytest.mark.filterwarnings("ignore:the tokenizer")
def test_stories260k() -> None:
    plain, tok = st.from_hf(STORIES)
    model, _ = st.from_hf(STORIES, **with_top_k(64))
    assert tok is not None
    ids = torch.tensor([tok.encode(TEXT)[:500]])
    with torch.no_grad():
        close(model(ids)[0], plain(ids)[0])
