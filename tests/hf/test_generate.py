"""Every step of `generate` is a full forward pass of the model: greedy, sampled, in beams, with padding, with a cache given."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import siltstone as st
from siltstone.inference.attending import ASKED
from siltstone.text import cut_table

from . import runs
from .runs import KINDS, PROMPTS, full, loaded
from .tiny import transformers

every_kind = pytest.mark.parametrize("kind", KINDS)


class Open:
    """A model, its folder and its tokenizer, opened by transformers and by us."""

    def __init__(self, path: Path, kind: str = "gated delta") -> None:
        self.folder = runs.folder(path, kind)
        self.model, self.tok = loaded(self.folder), runs.tokenizer(self.folder)
        self.lm, ours = st.load(self.folder)
        self.cuts = cut_table(self.lm.cfg, ours)

    def padded(self, texts: list[str] = PROMPTS) -> dict[str, Tensor]:
        return dict(self.tok(texts, padding=True, return_tensors="pt"))

    def check(self, out: Any, given: dict[str, Tensor], bound: float = 2e-5) -> None:
        """The raw scores of every step are the logits of a full pass over the row without its padding."""
        start = given["input_ids"].shape[1]
        for row, ids in enumerate(out.sequences):
            skip = int((given["attention_mask"][row] == 0).sum())
            for step, scores in enumerate(out.logits):
                want = full(self.lm, ids[skip : start + step], self.cuts, start - skip - ASKED)
                assert float((scores[row] - want).abs().max()) <= bound * max(1, float(want.abs().max())), (row, step)


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    return Open(tmp_path)


RAW = dict(return_dict_in_generate=True, output_logits=True, eos_token_id=None)


@every_kind
@pytest.mark.parametrize(
    "how", [dict(do_sample=False), dict(do_sample=True, temperature=2.0, top_k=20)], ids=["greedy", "sampled"]
)
def test_every_step_is_a_full_pass(kind: str, how: dict[str, Any], tmp_path: Path) -> None:
    opened = Open(tmp_path, kind)
    given = opened.padded()
    assert (given["attention_mask"][1, :10] == 0).all()  # padding on the left
    torch.manual_seed(4)
    out = opened.model.generate(**given, max_new_tokens=14, **how, **RAW)
    opened.check(out, given)
    if not how["do_sample"]:
        for row, text in enumerate(PROMPTS):  # the row alone gives the same tokens
            alone = opened.model.generate(**opened.padded([text]), max_new_tokens=14, do_sample=False, eos_token_id=None)
            assert torch.equal(alone[0, -14:], out.sequences[row, -14:])
        slow = opened.model.generate(**given, max_new_tokens=14, use_cache=False, **how, **RAW)
        assert torch.equal(slow.sequences, out.sequences) == (kind != "blocks")  # only a cache can choose before every token


@pytest.mark.parametrize("kind", ["gated delta", "logarithmic", "content", "exact writes"])
def test_beams_are_those_of_a_model_without_a_cache(kind: str, tmp_path: Path) -> None:
    opened = Open(tmp_path, kind)
    given = opened.padded()
    how = dict(num_beams=3, max_new_tokens=10, num_return_sequences=2, return_dict_in_generate=True, output_scores=True)
    fast = opened.model.generate(**given, **how)
    slow = opened.model.generate(**given, use_cache=False, **how)
    assert torch.equal(fast.sequences, slow.sequences)
    assert torch.allclose(fast.sequences_scores, slow.sequences_scores, atol=1e-5)
    assert fast.beam_indices.max() > 0 and not torch.equal(fast.sequences[0], fast.sequences[1])


def test_beams_of_blocks_have_the_scores_of_full_passes(tmp_path: Path) -> None:
    opened = Open(tmp_path, "blocks")
    given = opened.padded()
    how = dict(num_beams=3, max_new_tokens=8, num_return_sequences=2, return_dict_in_generate=True, output_scores=True)
    out = opened.model.generate(**given, **how, eos_token_id=None, length_penalty=1.0)
    start = given["input_ids"].shape[1]
    for i, ids in enumerate(out.sequences):
        skip = int((given["attention_mask"][i // 2] == 0).sum())
        steps = [full(opened.lm, ids[skip : start + n], None, start - skip - ASKED).log_softmax(-1) for n in range(8)]
        likely = sum(float(step[ids[start + n]]) for n, step in enumerate(steps)) / 8
        assert likely == pytest.approx(float(out.sequences_scores[i]), abs=1e-4)
    assert out.beam_indices.max() > 0


@pytest.mark.parametrize("chunk", [None, 50])
def test_the_end_of_a_long_prompt_chooses_before_every_token(chunk: int | None, tmp_path: Path) -> None:
    """In calls of any size, and when a conversation goes on; what is before it is read as a document."""
    opened = Open(tmp_path, "blocks")
    given = opened.padded([PROMPTS[0] * 9, PROMPTS[1]])
    columns = given["input_ids"].shape[1]
    assert columns > ASKED + 90
    out = opened.model.generate(**given, max_new_tokens=4, do_sample=False, prefill_chunk_size=chunk, **RAW)
    opened.check(out, given)
    assert not torch.allclose(out.logits[0][0], full(opened.lm, given["input_ids"][0]))  # it is not read as a document


def test_a_conversation_on_blocks_goes_on(tmp_path: Path) -> None:
    """With the whole text or with what the cache has not read."""
    opened = Open(tmp_path, "blocks")
    first = opened.model.generate(**opened.padded([PROMPTS[0] * 9]), max_new_tokens=4, do_sample=False, **RAW)
    ids = torch.cat([first.sequences, opened.tok([" and then?" * 40], return_tensors="pt").input_ids], 1)
    read, caches = first.cache.columns, [copy.deepcopy(first.cache) for _ in range(3)]
    mask = torch.ones_like(ids)
    given = [dict(input_ids=ids), dict(input_ids=ids[:, read:], attention_mask=mask), dict(input_ids=ids, attention_mask=mask)]
    out = [opened.model.generate(**one, cache=c, max_new_tokens=4, do_sample=False, **RAW)
           for one, c in zip(given, caches, strict=True)]  # fmt: skip
    for one in out:
        assert torch.equal(one.sequences[0, -4:], out[0].sequences[0, -4:])
        assert one.cache.state.positions.asking.tolist() == [ids.shape[1] - ASKED]


def test_each_token_is_read_once(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    read, features = [], st.LM.features
    monkeypatch.setattr(st.LM, "features", lambda self, ids, *more: (read.append(ids.shape[1]), features(self, ids, *more))[1])
    opened.model.generate(**opened.padded(), max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert read == [len(PROMPTS[0]), 1, 1, 1, 1, 1]


def test_a_conversation_goes_on_with_its_cache(opened: Open) -> None:
    given = opened.padded()
    first = opened.model.generate(**given, max_new_tokens=5, do_sample=False, **RAW)
    assert isinstance(first.cache, st.hf.SiltstoneCache) and first.cache.get_seq_length() == first.sequences.shape[1] - 1
    more = opened.tok([" and then", " and then"], return_tensors="pt").input_ids
    ids = torch.cat([first.sequences, more], 1)
    mask = torch.cat([given["attention_mask"], torch.ones(2, ids.shape[1] - given["attention_mask"].shape[1])], 1).long()
    kept = copy.deepcopy(first.cache)
    both = dict(input_ids=ids, attention_mask=mask)
    out = opened.model.generate(**both, cache=first.cache, max_new_tokens=5, do_sample=False, **RAW)
    opened.check(out, both)
    again = opened.model.generate(**both, cache=kept, max_new_tokens=5, do_sample=False, **RAW)  # a copy is independent
    assert torch.equal(again.sequences, out.sequences)
    chunks = opened.model.generate(**both, prefill_chunk_size=7, max_new_tokens=5, do_sample=False, **RAW)
    opened.check(chunks, both)


def test_memory_stays_constant(tmp_path: Path) -> None:
    """A window and a memory without checkpoints: the state has the same size after 20 and after 200 tokens."""
    model = loaded(runs.folder(tmp_path, cache="none", segment=256))
    ids, cache, sizes = torch.randint(256, (1, 20)), st.hf.SiltstoneCache(), []
    for _ in range(10):
        with torch.no_grad():
            model(ids, cache=cache)
        sizes.append(cache.nbytes)
    assert cache.columns == 200 and len(set(sizes)) == 1


def test_streamers_and_stopping_criteria(opened: Open) -> None:
    given = opened.padded(PROMPTS[:1])

    class Letters(transformers.TextStreamer):
        text = ""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.text += text

    letters = Letters(opened.tok, skip_prompt=True)
    out = opened.model.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=None, streamer=letters)
    assert letters.text == opened.tok.decode(out[0, given["input_ids"].shape[1] :])
    third = int(out[0, given["input_ids"].shape[1] + 2])
    ended = opened.model.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=third)
    assert ended.shape[1] <= given["input_ids"].shape[1] + 3 and ended[0, -1] == third
    length = given["input_ids"].shape[1] + 4
    stop = [lambda ids, scores, **_: torch.full((len(ids),), ids.shape[1] >= length)]
    stopped = opened.model.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=None, stopping_criteria=stop)
    assert torch.equal(stopped, out[:, :length])


def test_a_pipeline(opened: Open) -> None:
    pipe = transformers.pipeline("text-generation", model=opened.model, tokenizer=opened.tok)
    found = pipe(PROMPTS, max_new_tokens=5, do_sample=False, batch_size=2, return_full_text=False)
    for text, (one,) in zip(PROMPTS, found, strict=True):
        ids = opened.model.generate(**opened.padded([text]), max_new_tokens=5, do_sample=False)
        assert one["generated_text"] == opened.tok.decode(ids[0, len(text) :], skip_special_tokens=True)


def test_a_session_says_the_same(tmp_path: Path) -> None:
    for kind in ("gated delta", "content"):
        opened = Open(tmp_path / kind, kind)
        session = st.Session(*st.load(opened.folder))
        session.append(PROMPTS[0])
        out = opened.model.generate(**opened.padded(PROMPTS[:1]), max_new_tokens=20, do_sample=False)
        said = "".join(session.generate(20, temperature=0))
        assert said and opened.tok.decode(out[0, len(PROMPTS[0]) :], skip_special_tokens=True) == said


def test_what_is_refused(opened: Open) -> None:
    given = opened.padded()
    generate = opened.model.generate
    with pytest.raises(ValueError, match="stateful"):
        generate(**opened.padded(PROMPTS[:1]), max_new_tokens=3, assistant_model=loaded(opened.folder))
    with pytest.raises(ValueError, match="stateful"):
        generate(**opened.padded(PROMPTS[:1]), max_new_tokens=3, prompt_lookup_num_tokens=2)
    with pytest.raises(st.errors.InputError, match="cache_implementation='static'"):
        generate(**given, max_new_tokens=3, cache_implementation="static")
    with pytest.raises(st.errors.InputError, match="must be a SiltstoneCache"):
        generate(**given, max_new_tokens=3, cache=transformers.DynamicCache())
    with pytest.raises(st.errors.InputError, match="inputs_embeds"):
        generate(inputs_embeds=torch.zeros(1, 3, 32), max_new_tokens=3)
    ids = given["input_ids"]
    refused: list[tuple[dict[str, Any], str]] = [
        (dict(position_ids=ids), "position_ids was given: positions belong to the state"),
        (dict(past_key_values=st.hf.SiltstoneCache()), "give cache="),
        (dict(output_hidden_states=True), "hidden states are not returned"),
        (dict(colour=1), "colour is not an argument"),
        (dict(attention_mask=torch.ones(2, 1, 3, 3)), r"attention_mask is \(2, 1, 3, 3\)"),
        (dict(attention_mask=torch.ones(2, 3)), "at least 42 columns"),
    ]
    for keys, words in refused:
        with pytest.raises(st.errors.InputError, match=words):
            opened.model(ids, **keys)
