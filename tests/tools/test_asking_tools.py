"""The tools about asking: settings are measured as they are said, and the page shows what was answered."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import siltstone as st
from tests.cli.commands import good

TINY = "window=16,segment=8,top_k=2,sinks=2"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = st.LM(st.presets.nano(259, depth=2, d_model=16, heads=2, pattern="a")).eval()
    return st.save(model, st.ByteTokenizer(), tmp_path_factory.mktemp("runs") / "run")


def novel(folder: Path, name: str = "a.txt") -> Path:
    (folder / name).write_text("".join(f"He said it {i} times. Nobody knew why. " for i in range(400)), "utf-8")
    return folder / name


def test_settings_are_measured(
    tool: Any, decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settle, out = tool("settle_blocks"), tmp_path / "a.json"
    given = ["settle", decoder, "--text", novel(tmp_path), "--tokens", 900, "--facts", 8, "--tail", 100, "--out", out]
    given += ["--read", f"{TINY},route_every=16", "--read", "full"]
    monkeypatch.setattr(sys, "argv", [*map(str, given)])
    settle.main()
    rows = json.loads(out.read_text("utf-8"))
    assert [(row["read"], row["asking"]) for row in rows] == [(f"{TINY},route_every=16", x) for x in (False, True)] + [
        ("full", False)
    ]
    assert all(len(row["right"]) == len(row["nats"]) == 8 and min(row["nats"]) > 0 for row in rows)
    assert rows[0]["nats"] != rows[1]["nats"] and rows[0]["cpu_read"] == rows[1]["cpu_read"]
    monkeypatch.setattr(settle, "measured", lambda *given: pytest.fail("a result that is there is measured again"))
    settle.main()
    assert capsys.readouterr().out.count("| 1,000 | full | - | text | 1 |") == 2


def test_the_page_has_what_was_measured(tool: Any) -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    rows = json.loads((docs / "blocks.json").read_text("utf-8"))
    assert tool("settle_blocks").table(rows) in (docs / "pretrained.md").read_text("utf-8")
    assert len({row["text"] for row in rows}) == 3


def test_the_table_of_facts(tool: Any) -> None:
    run = tool("facts_run")
    row = {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 25}
    rows = [row | {"score": score, "at": {"length": n} | arm} for n in (8192, 4096) for arm in ({}, {"arm": "full"})
            for score in ("first token", "said", "log-probability", "first token, facts removed")]  # fmt: skip
    lines = run.table(rows).splitlines()
    assert [re.split(r" \| ", line)[:2] for line in lines[2:]] == [
        ["| 4,096", "blocks"], ["| 4,096", "full"], ["| 8,192", "blocks"], ["| 8,192", "full"]
    ]  # fmt: skip
    assert lines[2].count("0.50 (0.25 to 0.75)") == 4 and lines[2].endswith("| 25 |")
    assert [*run.SEEDS.values()] == [5, 5, 5, 5, 2, 1] and [*run.SEEDS][-1] == 131072


def test_forms_are_compared_on_the_same_texts(tool: Any) -> None:
    """Texts that one of the two has not read do not count."""
    run = tool("facts_run")

    def point(arm: str, text: int, right: float) -> dict[str, Any]:
        return {"length": 4096, "arm": arm, "seed": 0, "text": text, "scores": {"first token": right}}

    points = [point("full", i, right) for i, right in enumerate((0.5, 1.0, 0.25))] + [point("blocks", 3, 1.0)]
    points += [point("blocks", 0, 0.5), point("blocks", 1, 0.7), point("bm25", 0, 1.0), point("reread", 0, 1.0)]
    (line,) = run.compared(points).splitlines()[2:]
    assert line == "| 4,096 | blocks | full | 80% (70% to 100%) | 2 |"


def test_the_page_has_the_facts(tool: Any) -> None:
    run, docs = tool("facts_run"), Path(__file__).resolve().parents[2] / "docs"
    points = json.loads((docs / "facts.json").read_text("utf-8"))
    page = (docs / "pretrained.md").read_text("utf-8")
    assert run.table(run.rows(run.Facts(), points)) in page and run.compared(points) in page
    assert all(run.Point(point["length"], point["arm"], point["seed"], point["text"]).name for point in points)


def test_facts_point_by_point(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same figures as those of `siltstone eval`, in parts: a stopped command continues where it was."""
    run, folder = tool("facts_run"), tmp_path / "facts"
    keys = dict(cache="blocks", window=16, segment=8, top_k=2, router="subblock:2", position="rope")
    model = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1, pattern="m", **keys)).eval()
    decoder, text = st.save(model, st.ByteTokenizer(), tmp_path / "run"), novel(tmp_path)
    monkeypatch.setattr(run, "TEXTS", 2)
    given = ["facts", decoder, "--text", text, "--folder", folder, "--lengths", 1200, "--arms", "blocks", "--seeds", 1]
    for more in (["--minutes", 0], []):
        monkeypatch.setattr(sys, "argv", [*map(str, [*given, "--control", "blocks", "--wordings", 3, *more])])
        run.main()
        assert len(run.kept(folder)) == (0 if more else 2)
    want = json.loads(good("eval", decoder, "--tasks", "facts", "--lengths", 1200, "--seeds", 1, "--items", 2, "--text", text,
                           "--json").stdout)["rows"]  # fmt: skip
    found = run.rows(run.Facts(), run.kept(folder))
    assert {row["at"]["arm"] for row in found} == {"blocks, 3 wordings"}
    assert {(row["score"], round(row["mean"], 4)) for row in found} == {(row["score"], round(row["mean"], 4)) for row in want}
    told = capsys.readouterr().out
    assert len(found) == 6 and "| 1,200 | blocks, 3 wordings |" in told
    monkeypatch.setattr(run, "observed", lambda *given: pytest.fail("a point that is there is measured again"))
    run.main()
    assert [(p.length, p.arm) for p in run.points([16384, 131072], ["full", "blocks"], 2) if p.text == p.seed == 0] == [
        (16384, "full"), (16384, "blocks"), (131072, "blocks")
    ]  # fmt: skip


@pytest.mark.parametrize("option", ["--arms", "--control"])
def test_arms_of_facts_are_checked_before_anything_is_read(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["facts", str(tmp_path / "no run"), "--text", "none.txt", option, "blocks,ful",
                                      "--folder", str(tmp_path / "facts")])  # fmt: skip
    with pytest.raises(st.errors.InputError, match="'ful' is not known; choose of full, yarn"):
        tool("facts_run").main()
    assert not (tmp_path / "facts").exists()


def test_the_page_has_the_settings(tool: Any) -> None:
    settle, docs = tool("settle_blocks"), Path(__file__).resolve().parents[2] / "docs"
    rows = json.loads((docs / "blocks.json").read_text("utf-8"))
    assert settle.table(rows) in (docs / "pretrained.md").read_text("utf-8")


def test_the_page_has_the_answers(tool: Any) -> None:
    ask, docs = tool("ask_page"), Path(__file__).resolve().parents[2] / "docs"
    found = json.loads((docs / "ask.json").read_text("utf-8"))
    assert [one["attention"] for one in found] == [ask.OURS, *ask.ARMS]
    assert all([x["question"] for x in one["answers"]] == [x.text for x in ask.ASKED] for one in found)
    assert ask.markdown(found) in (docs / "pretrained.md").read_text("utf-8")


def test_the_page_of_questions(tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="an optional package: the extra hf", minversion="5.24")
    from tests.hf.tiny import saved

    ask = tool("ask_page")
    (tmp_path / "texts").mkdir()
    text = "Nothing was said.\n" * 40 + "Nothing was done.\n" * 40
    (tmp_path / "texts" / "2002-Bush-1.txt").write_text(text, "utf-8")
    monkeypatch.setattr(ask, "speeches_folder", lambda: tmp_path / "texts")
    monkeypatch.setattr(ask, "siltstone", lambda *words: good(*words).stdout)
    monkeypatch.setattr(ask, "WINDOW", 64)
    monkeypatch.setattr(
        ask,
        "IMPORT",
        ["--blocks", "--set", "window=64", "--set", "segment=8", "--set", "top_k=4", "--set", "checkpoint_dtype=float32"],
    )
    monkeypatch.setattr(
        ask, "ARMS", {name: keys | ({"window": 64} if "window" in keys else {}) for name, keys in ask.ARMS.items()}
    )
    model, folder = saved("llama", tmp_path / "hf"), tmp_path / "ask"
    monkeypatch.setattr(sys, "argv", ["ask", str(model), "--folder", str(folder), "--speech", "2002-Bush-1", "--questions", "2"])
    ask.main()
    page = (folder / "ask.html").read_text("utf-8")
    kept = json.loads((folder / "ask.json").read_text("utf-8"))
    assert [len(one["answers"]) for one in kept] == [2, 2, 2] and ask.markdown(kept).count(" of 2 |") == 3
    record = json.loads(re.findall(r'id="record">(.*?)</script>', page)[0])
    assert page.count('<div class="box">') == 2 and "2002-Bush-1.txt, line" in page and record["facts"]["trained"] == 512
    assert [len(arm["found"]) for arm in record["arms"].values()] == [3, 3, 3]
    blocks, window, cut = (arm["found"][-1]["position"] for arm in record["arms"].values())
    assert blocks == window > 512 > cut > 200  # the last one has read what it was trained for
    answers = record["arms"]["blocks"]["found"]
    assert len(answers[0]["passages"]) == 5 and record["asked"][0]["wanted"] == "48213"
    before = (folder / "blocks.json").read_bytes()
    monkeypatch.setattr(ask, "siltstone", lambda *words: pytest.fail("a step that is done is done again"))
    ask.main()
    assert (folder / "blocks.json").read_bytes() == before and (folder / "ask.html").read_text("utf-8") == page
    wrong = {"question": "?", "answer": " It is Karzai.", "passages": []}
    box = ask._box(ask.Asked("He is Karzai.", "Who <b>?", "Karzai"), {"blocks": wrong, "other": {"answer": "no"}})
    assert "Who &lt;b&gt;?" in box and '<td class="good">It is <b>Karzai</b>.' in box and '<td class="soft">no</td>' in box
    assert "0 passages, none of them" in box and "Said: He is <b>Karzai</b>." in box


def test_sentences_stand_between_paragraphs(tool: Any) -> None:
    ask = tool("ask_page")
    texts = ["".join(f"{name}{i}\n" for i in range(20)) for name in "ab"]
    found = ask.strewn(texts, ask.ASKED)
    assert [sum(one.said in text for one in ask.ASKED) for text in found] == [4, 4]
    for text, before in zip(found, texts, strict=True):
        lines = [line for line in text.split("\n") if line.strip()]
        assert [line for line in lines if line not in {one.said for one in ask.ASKED}] == before.split()
        assert lines[0] in before and lines[-1] in before


def test_the_page_has_what_blocks_hold_far_into_a_text(tool: Any) -> None:
    far, docs = tool("far_blocks"), Path(__file__).resolve().parents[2] / "docs"
    rows = json.loads((docs / "far_blocks.json").read_text("utf-8"))["rows"]
    assert far.table(rows) in (docs / "pretrained.md").read_text("utf-8") and far.table(rows).count("\n") == 5


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(("candidates", "whole"), [(1000, True), (8, False)])
def test_what_blocks_hold_far_into_a_text(
    tool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, candidates: int, whole: bool
) -> None:
    """If every block is a candidate, two stages choose as one does; with few candidates they miss some."""
    far = tool("far_blocks")
    keys: dict[str, Any] = dict(cache="blocks", window=16, segment=8, top_k=4, router="subblock:2", checkpoint_dtype="int8")
    torch.manual_seed(0)
    options = {"coarse": 8, "coarse_from": 64, "candidates": candidates, "route_every": 8}
    model = st.LM(st.presets.nano(259, depth=1, d_model=16, heads=1, pattern="m", cache_options=options, **keys)).eval()
    run, out = st.save(model, st.ByteTokenizer(), tmp_path / "run"), tmp_path / "far.json"
    monkeypatch.setattr(far, "FIRST", 128)
    monkeypatch.setattr(far, "CALL", 32)
    monkeypatch.setattr(sys, "argv", [*map(str, ["far", run, novel(tmp_path), "--tokens", 512, "--out", out])])
    far.main()
    rows = json.loads(out.read_text("utf-8"))["rows"]
    assert [row["tokens"] for row in rows] == [128, 256, 512] and all(row["cache"] == 128 * row["tokens"] for row in rows)
    assert all(0 < row["pool"] <= row["resident"] for row in rows)
    shares = [(row["blocks"], row["mass"]) for row in rows]
    assert shares == [(1, 1)] * 3 if whole else all(0 < blocks <= mass <= 1 and blocks < 1 for blocks, mass in shares[1:])
