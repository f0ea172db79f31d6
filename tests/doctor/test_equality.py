"""A right model reads one text alike in every way; a wrong one is found out, and in the right line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import siltstone as st
from siltstone.config.model import LMConfig
from siltstone.doctor import equality, examine
from siltstone.doctor.cuts import cut_as_sessions_do
from siltstone.doctor.equality import WAYS, Check, compare
from siltstone.doctor.findings import all_findings
from siltstone.layers import step
from siltstone.memory.gated import Gated
from siltstone.memory.min_gru import MinGRU
from siltstone.models import entry
from siltstone.models.lm import LM
from siltstone.models.stream_state import LMState

from .conftest import IDS, make

TOK = st.ByteTokenizer()
SLOW = {"inner_batch": 4, "inner_lr": 0.05}
QUIET = {"first": 1.0, "buckets": [{"from": 1, "to": 2, "all": 1.0, "memory": None}]}


def checks(model: st.LM, length: int = 45) -> list[Check]:
    """Both number formats."""
    ids = IDS[None, :length]
    return [*compare(model, TOK, ids, 0), *compare(copy.deepcopy(model).double(), TOK, ids, 0)]


def failing(model: st.LM) -> set[str]:
    """Ways that fail in float64."""
    return {c.way for c in compare(copy.deepcopy(model).double(), TOK, IDS[None, :45], 0) if not c.ok}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"segments": "logarithmic", "cache": "sparse", "top_k": 1, "gate": "softmax"},
        {"segments": "constant", "cache": "sparse", "top_k": 2, "rate": 2, "compress": "mean", "start": "carry"},
        {"memory": "deep", "cache": "soup", "segments": "logarithmic", "memory_options": SLOW},
        {"memory": "lstm", "cache": "residual", "sinks": 2},
        {"memory": "titans", "cache": "none", "write_delay": 0, "window": 0, "memory_options": SLOW},
        {"pattern": "mwa", "depth": 3},
        {"pattern": "w"},
        {"pattern": "a"},
        {"checkpoint_dtype": "int8", "max_checkpoints": 3, "evict": "merge"},
    ],
    ids=lambda keys: " ".join(map(str, keys.values())) or "plain",
)
def test_a_right_model_is_found_right(keys: dict[str, Any]) -> None:
    found = checks(make(**keys))
    assert [(c.way, c.dtype) for c in found] == [(way, dtype) for dtype in ("float32", "float64") for way in WAYS]
    assert all(c.ok for c in found), [c for c in found if not c.ok]
    assert {c.way for c in found if c.same_bits} == {"after a session file", "after state.tensors()"}
    assert all(c.difference < 1e-10 for c in found if c.dtype == "float64")


def test_a_model_that_cuts_by_content_is_read_as_sessions_read_it() -> None:
    ids = IDS.clone()
    ids[[9, 14, 30]] = 10
    model = make(segments="content")
    record = examine(model, TOK, ids.tolist(), tokens=45)
    assert record.checks and all(c.ok for c in record.checks), [c for c in record.checks if not c.ok]
    assert "features" not in vars(model)


def step_without_decay(patch: pytest.MonkeyPatch) -> None:
    real = Gated.step
    patch.setattr(
        Gated, "step", lambda self, inputs, shift, state: real(self, inputs | {"decay": 0 * inputs["decay"]}, shift, state)
    )


def single_tokens_forget_the_bank(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(step, "_cached", lambda mixer, z, view, mix: torch.zeros_like(z))


def padding_counts(patch: pytest.MonkeyPatch) -> None:
    real = entry.pack_batch
    patch.setattr(entry, "pack_batch", lambda shape, positions, mask, *rest: real(shape, positions, None, *rest))


def resets_do_not_count(patch: pytest.MonkeyPatch) -> None:
    real = entry.pack_batch
    patch.setattr(entry, "pack_batch", lambda shape, positions, mask, reset, *rest: real(shape, positions, mask, None, *rest))


def forks_share(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LMState, "fork", lambda self: self)


def a_restored_memory_is_empty(patch: pytest.MonkeyPatch) -> None:
    real = LM.load_state

    def load(self: LM, tensors: dict[str, Any], meta: dict[str, Any]) -> LMState:
        return real(self, {k: 0 * x if ".online." in k else x for k, x in tensors.items()}, meta)

    patch.setattr(LM, "load_state", load)


def rows_change_places(patch: pytest.MonkeyPatch) -> None:
    real = LMState.cat
    patch.setattr(LMState, "cat", staticmethod(lambda states: real([states[0], states[2], states[1]])))


def calls_forget_pending_tokens(patch: pytest.MonkeyPatch) -> None:
    real = LM.features

    def features(self: LM, ids: torch.Tensor, state: LMState | None = None, *args: Any, **keys: Any) -> Any:
        hidden, after = real(self, ids, state, *args, **keys)
        for layer in after.layers:
            layer.input = torch.zeros_like(layer.input)  # type: ignore[attr-defined]
        return hidden, after

    patch.setattr(LM, "features", features)


PADDED = {"padding on the left", "padding on the right", "padding between tokens"}
STORED = {"after a session file", "after state.tensors()"}


@pytest.mark.parametrize(
    ("fault", "ways"),
    [
        (step_without_decay, {"a token a call", "after a fork"} | STORED),
        (single_tokens_forget_the_bank, {"a token a call", "after a fork"} | STORED),
        (padding_counts, PADDED),
        (resets_do_not_count, {"behind another document"}),
        (forks_share, {"after a fork"}),
        (a_restored_memory_is_empty, STORED),
        (rows_change_places, {"a row of a batch"}),
        (calls_forget_pending_tokens, set(WAYS) - {"behind another document"}),
    ],
    ids=lambda x: x.__name__ if callable(x) else "",
)
def test_a_fault_is_found_where_it_is(
    monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], None], ways: set[str]
) -> None:
    model = make()
    fault(monkeypatch)
    assert failing(model) == ways


def test_a_rule_whose_scan_and_step_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(memory="min_gru")
    assert not failing(model)
    real = MinGRU.step

    def step(self: MinGRU, inputs: dict[str, Any], shift: int, state: Any) -> Any:
        return real(self, inputs, shift, state).map(lambda x: 0.999 * x)

    monkeypatch.setattr(MinGRU, "step", step)
    assert failing(model) == {"a token a call", "after a fork"} | STORED


def test_what_is_wrong_is_said_with_the_figure_and_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    step_without_decay(monkeypatch)
    record = examine(make(), TOK, IDS)
    assert not record.ok
    worst = record.findings[0]
    assert (worst.level, worst.area) == ("failure", "equality")
    lines = {f.text.split(":")[0]: f for f in record.findings if f.level == "failure"}
    line = lines.pop("a token a call (float64)")
    assert "allowed 1e-10" in line.text and "step" in line.advice and "scan" in line.advice
    assert set(lines) == {f"{way} (float64)" for way in {"after a fork"} | STORED}
    assert {f.advice for f in lines.values()} == {"this follows from 'a token a call'"}
    assert all(word in line.advice for word in ("siltstone doctor demo", "your own", "edited", "report it"))


def test_what_a_user_can_check_is_said_once() -> None:
    model = make(memory="gated")
    bad = [Check(way, "float64", 1.0, 1e-10, 3, 40, 40) for way in ("a token a call", "padding on the left")]
    first, second = (f.advice for f in all_findings(model.cfg, bad, [], QUIET) if f.level == "failure")
    assert "siltstone doctor demo" in first and "siltstone doctor demo" not in second and "mask" in second


def test_a_text_that_crosses_no_cut_is_said_to_be_short() -> None:
    model = make()
    for length, level, words in (
        (12, "warning", "with 0 ends of segments"),
        (13, "warning", "with 1 end of segments"),
        (21, "ok", ""),
    ):
        found = all_findings(model.cfg, checks(model, length), [], QUIET)
        line = next(f for f in found if f.area == "equality")
        assert line.level == level and words in line.text, (length, line)
    model = make(cache="none")
    assert {f.level for f in all_findings(model.cfg, checks(model, 12), [], QUIET) if f.area == "equality"} == {"ok"}
    model = make(segment=64, layers={"0": {"segment": 8}})  # the second layer seals nothing
    (line,) = [f for f in all_findings(model.cfg, checks(model, 45), [], QUIET) if "ends of segments" in f.text]
    assert line.level == "warning" and "0 ends of segments" in line.text
    model, ids = make(segments="content", segment=64), IDS[None, :40].clone()
    for lines, level in ((0, "warning"), (1, "warning"), (3, "ok")):  # by its own cuts, not by `segment`
        ids[ids == 10] = 0
        ids[0, 10 : 10 + 6 * lines : 6] = 10
        with cut_as_sessions_do(model, TOK):
            found = all_findings(model.cfg, list(compare(model, TOK, ids, 0)), [], QUIET)
        line = next(f for f in found if f.area == "equality")
        assert line.level == level and (level == "ok" or f"with {lines} end{'s' * (lines != 1)} of segments" in line.text), (
            lines,
            line,
        )


def test_rounding_is_told_from_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = LM.forward

    def rough(self: LM, ids: torch.Tensor, *args: Any, **keys: Any) -> Any:
        logits, state = real(self, ids, *args, **keys)
        return logits * (1 + 1e-3 * (ids.shape[1] == 1 and logits.dtype == torch.float32)), state

    monkeypatch.setattr(LM, "forward", rough)
    model = make()
    bad = [f for f in all_findings(model.cfg, checks(model), [], QUIET) if f.level == "failure"]
    assert bad and all("float32 only" in f.text and "rounding" in f.advice for f in bad)


def test_logits_that_are_no_numbers() -> None:
    model = make()
    with torch.no_grad():
        model.blocks[1].mlp.down.weight.fill_(torch.nan)  # type: ignore[union-attr]
    found = checks(model)
    assert not any(c.ok for c in found)
    assert "logits are nan" in all_findings(model.cfg, found, [], QUIET)[0].text


def test_a_restored_state_must_have_the_same_bits() -> None:
    check = Check("after a session file", "float32", 1e-9, 1e-5, 3, 40, 40, same_bits=False)
    assert not check.ok
    (found,) = (
        f for f in all_findings(LMConfig.from_dict({"vocab_size": 9, "d_model": 8}), [check], [], QUIET) if f.level == "failure"
    )
    assert "same bits" in found.text


def test_a_choice_that_hangs_on_rounding_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = make(cache="sparse", top_k=1, depth=1), IDS[None, :60]
    assert equality.untied(model, ids) == 60
    with torch.no_grad():
        model.blocks[0].mix.router.query.weight.zero_()  # type: ignore[union-attr]  # all checkpoints score the same, 0
    assert equality.untied(model, ids) == 60 and all(c.ok for c in checks(model, 60))  # the most recent, in every split
    monkeypatch.setitem(equality.TIE, torch.float32, 1.0)
    first = equality.untied(model, ids)
    assert first == 4 + 2 * 8  # 4 tokens in the window, and the write that seals the second segment
    found = checks(model, 60)
    assert all(c.ok for c in found)
    assert {c.tokens for c in found if c.dtype == "float32"} == {first}
    assert {c.tokens for c in found if c.dtype == "float64"} == {60}
    assert any(f"before token {first}" in f.text for f in all_findings(model.cfg, found, [], QUIET))


@pytest.mark.parametrize(
    ("steps", "chosen", "hidden", "want"),
    [
        ([5.0, 3.0, 1.0], [0], [], False),
        ([5.0, 5.0, 1.0], [1], [], False),  # a tie in the middle of a step: the most recent, whatever the rounding
        ([5.5, 5.0, 1.0], [0], [], True),  # may count as 5, and then the other is more recent
        ([5.5, 5.5, 1.0], [1], [], True),  # the one as 6, the other as 5
        ([5.5, 1.0, 1.0], [0], [], False),
        ([7.0, 4.5, 3.0], [0, 1], [], False),
        ([7.0, 5.0, 4.5], [0, 1], [], True),
        ([7.0, 5.0, 4.5], [0, 1], [2], False),
    ],
)
def test_what_hangs_on_rounding(steps: list[float], chosen: list[int], hidden: list[int], want: bool) -> None:
    scores = (torch.tensor(steps) / 4096)[None, None]
    unseen = torch.zeros_like(scores, dtype=torch.bool)
    unseen[..., hidden] = True
    for unseen_ in (unseen, None) if not hidden else (unseen,):
        assert equality.hangs(scores, unseen_, torch.tensor([[chosen]]), 1e-6) is want


@pytest.mark.parametrize("keys", [{}, {"start": "carry"}, {"router": "subblock:2", "gate": "softmax"}])
def test_lines_with_the_same_words_are_told_apart_alike_in_every_split(keys: dict[str, Any]) -> None:
    model = make(cache="sparse", top_k=2, segments="content", **keys)
    ids = torch.tensor([list(b"12\n21\n11\n\n22\n" * 9)])
    model = model.double()
    with cut_as_sessions_do(model, TOK):
        found = [*compare(model, TOK, ids, 0)]
    assert all(c.ok and c.tokens == ids.shape[1] for c in found), [c for c in found if not c.ok]
