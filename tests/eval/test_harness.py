"""The model class for the lm-evaluation-harness, with requests as the harness makes them, and its task files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import siltstone as st
from siltstone.errors import InputError
from siltstone.eval.tasks.reader import Reader
from siltstone.lm_eval import Scorer, main, model_class, write_tasks
from siltstone.text import ByteTokenizer


def ask(*args: object) -> SimpleNamespace:
    return SimpleNamespace(args=args)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    torch.manual_seed(0)
    model = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1, window=8, segment=64, router_dim=8)).eval()
    return Scorer(model, ByteTokenizer())


def direct(scorer: Scorer, text: str) -> torch.Tensor:
    """Log-probabilities of all next tokens, from one call of the model."""
    tok = scorer.tokenizer
    first = tok.bos_id if tok.bos_id is not None else tok.eos_id
    ids = tok.encode("\n") if first is None else [first]
    with torch.no_grad():
        return scorer.model(torch.tensor([[*ids, *tok.encode(text)]]))[0][0].log_softmax(-1)


def test_likelihoods_are_those_of_one_call(scorer: Scorer) -> None:
    context, continuation = "It was a ", "dark night"
    found = scorer.loglikelihood([ask(context, continuation), ask(context, "x"), ask("", "ab")])
    ids = scorer.tokenizer.encode(context + continuation)
    logp = direct(scorer, context + continuation)
    begin = len(context) - 1  # the space at the end belongs to the continuation
    wanted = sum(float(logp[i, ids[i]]) for i in range(begin, len(ids)))
    assert found[0][0] == pytest.approx(wanted, abs=1e-4) and not found[0][1]
    text = scorer.loglikelihood_rolling([ask("ab")])
    assert found[2][0] == pytest.approx(text[0], abs=1e-4)


def test_the_greedy_continuation_is_known(scorer: Scorer) -> None:
    best = scorer.tokenizer.decode([int(direct(scorer, "abc")[-1].argmax())])
    assert best.isascii() and scorer.loglikelihood([ask("abc", best)])[0][1]
    assert not scorer.loglikelihood([ask("abc", "!!!!")])[0][1]


def test_writing_stops(scorer: Scorer) -> None:
    long, again = scorer.generate_until([ask("abc", {"max_gen_toks": 20}), ask("abc", {"until": [], "max_gen_toks": 20})])
    assert long == again
    (short,) = scorer.generate_until([ask("abc", {"until": [long[2]], "max_gen_toks": 20})])
    assert len(long) > 3 and short == long[: long.index(long[2])]


def test_the_class_is_one_of_the_harness(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    base = type("LM", (), {})
    for name, parts in {"lm_eval": {}, "lm_eval.api": {}, "lm_eval.api.model": {"LM": base}}.items():
        module = ModuleType(name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    made = model_class()(scorer.model, scorer.tokenizer)
    assert isinstance(made, base) and len(made.loglikelihood([ask("a", "b")])) == 1


def test_without_the_harness_the_mend_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(InputError, match="pip install lm-eval"):
        model_class()
    assert main(["run", "demo", "--tasks", "x"]) == 2 and "pip install lm-eval" in capsys.readouterr().err


def test_task_files_have_their_data_beside_them(scorer: Scorer, tmp_path: Path) -> None:
    names = write_tasks(tmp_path, Reader(scorer.model, scorer.tokenizer), 1200, 2)
    assert len(names) == 17 and {"siltstone_facts", "siltstone_told_20", "siltstone_recall_load"} < {*names}
    for name in names:
        rows = [json.loads(x) for x in (tmp_path / f"{name.removeprefix('siltstone_')}.jsonl").read_text().splitlines()]
        each = {"siltstone_facts": 8, "siltstone_recall_load": 4}.get(name, 1)
        assert len(rows) == 2 * each and f"task: {name}\n" in (tmp_path / f"{name}.yaml").read_text()
        for row in rows:
            answers = row["answers"] if "answers" in row else [row["choices"][row["answer"]]]
            assert all(x in row["text"] for x in answers)
