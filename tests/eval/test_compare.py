"""Models beside each other: the same parts for all, paired differences, seeds, and errors before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siltstone.errors import DataError, InputError
from siltstone.eval import compare as module
from siltstone.eval.compare import SLACK, compare, parts_of
from siltstone.eval.position import by_position
from siltstone.models.checkpoint import load
from siltstone.report.compare import compare_report
from siltstone.text import ByteTokenizer
from siltstone.train import Recipe, begin, fit
from tests.cli.commands import good, refused
from tests.train.conftest import SMALL, configure, write_texts

FEW = dict(batch=3, length=16, span=48, precision="fp32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders one, two/0 and two/1, and texts."""
    at = tmp_path_factory.mktemp("compare")
    texts = write_texts(at / "texts", (900, 700))
    for name, seed, steps in (("one", 0, 1), ("two/0", 0, 4), ("two/1", 1, 4)):
        fit(begin(at / name, [texts], configure, Recipe(steps=steps, seed=seed, **FEW)))  # type: ignore[arg-type]
    return at


def books(runs: Path) -> list[str]:
    return [(runs / f"texts/{i}.txt").read_text() for i in (0, 1)]


def test_parts_are_the_text_without_its_end() -> None:
    text = "äöü€" * 300
    parts = parts_of(text, ByteTokenizer(), 100)
    assert len(parts) == len(text.encode()) // (100 + SLACK) and text.startswith("".join(parts))
    assert all(len(part.encode()) >= 100 for part in parts) and parts_of("ab", ByteTokenizer(), 100) == []


def test_differences_are_paired(runs: Path) -> None:
    found = compare({"one": [runs / "one"], "two": [runs / "two/0", runs / "two/1"]}, books(runs), 96)
    one, two = found["entries"]
    parts = [part for text in books(runs) for part in parts_of(text, ByteTokenizer(), 96)]
    assert found["parts"] == len(parts) > 10
    alone = [by_position(*load(runs / name), parts, 96) for name in ("one", "two/0", "two/1")]
    assert two["seeds"] == [x["bits_per_byte"] for x in alone[1:]] and two["seeds"][0] != two["seeds"][1]
    for i, bucket in enumerate(two["buckets"]):
        each = np.mean([x["buckets"][i]["each"] for x in alone[1:]], 0) - np.array(alone[0]["buckets"][i]["each"])
        assert bucket["difference"] == pytest.approx(each.mean()) and bucket["low"] < bucket["difference"] < bucket["high"]
        spread = np.std([x for x in alone[1]["buckets"][i]["each"]]) * 2 * 1.96 / len(parts) ** 0.5
        assert bucket["high"] - bucket["low"] < spread  # paired: the difficulty of a part falls out
    assert all(b["difference"] == b["low"] == b["high"] == 0 for b in one["buckets"])
    assert two["costs"]["state_bytes"] == one["costs"]["state_bytes"] > 0
    page = compare_report(found | {"command": "siltstone compare"})
    assert "<svg" in page and "Difference to one" in page and "http-equiv" not in page
    tokens = json.loads((runs / "two/0/receipt.json").read_text())["tokens"]
    assert two["tokens"] == tokens > 0 and f"<td>{tokens:,}</td>" in page


def test_what_was_read_is_kept(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, read = {"one": [runs / "one"], "two": [runs / "two/0"]}, []
    monkeypatch.setattr(module, "by_position", lambda *given: read.append(len(given[2])) or by_position(*given))
    found = compare(entries, books(runs), 96, keep=tmp_path / "read")
    assert len(read) == 2 and compare(entries, books(runs), 96, keep=tmp_path / "read") == found and len(read) == 2
    compare(entries, books(runs)[:1], 96, keep=tmp_path / "read")
    assert len(read) == 4  # other parts
    for path in (tmp_path / "read").iterdir():
        path.write_text('{"buckets": [{"each": [1.0]}]}', "utf-8")
    assert compare(entries, books(runs), 96, keep=tmp_path / "read") == found and len(read) == 6


def test_what_cannot_be_compared(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text has 5,016 tokens"):
        compare({"one": [runs / "one"]}, books(runs), 5000)
    with pytest.raises(InputError, match="nothing to compare"):
        compare({}, books(runs), 96)
    other = fit(begin(tmp_path / "bpe", [runs / "texts"], configure, Recipe(steps=1, **FEW), "bpe:262"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="another tokenizer"):
        compare({"one": [runs / "one"], "bpe": [Path(other["folder"])]}, books(runs), 96)


def test_the_command_compares_and_trains(runs: Path, tmp_path: Path) -> None:
    for name, keys in (("gated", {}), ("none", {"cache": "none"})):
        small = {k: v for k, v in SMALL.items() if name == "gated" or k not in ("segment", "router_dim")}
        (tmp_path / f"{name}.json").write_text(json.dumps({"vocab_size": 1, **small, **keys}))
    texts = runs / "texts/0.txt"
    words = ["compare", runs / "one", tmp_path / "gated.json", tmp_path / "none.json", texts, "--length", "96", "--json"]
    words += ["--folder", tmp_path / "out", "--train", runs / "texts/1.txt", "--steps", "1", "--seeds", "2", "--device", "cpu"]
    found = json.loads(good(*words).stdout)
    assert [entry["name"] for entry in found["entries"]] == [str(runs / "one"), "gated", "none"]
    assert [len(entry["seeds"]) for entry in found["entries"]] == [1, 2, 2]
    assert "--seeds 2" in found["command"] and (tmp_path / "out/report.html").is_file()
    assert json.loads(good(*words).stdout) == found  # nothing is trained again
    sizes = [entry["costs"]["parameters"] for entry in found["entries"][1:]]
    matched = json.loads(good(*words, "--match", "--folder", tmp_path / "matched").stdout)
    same = [entry["costs"]["parameters"] for entry in matched["entries"][1:]]
    assert same[0] == sizes[0] != sizes[1] and abs(same[1] - same[0]) < abs(sizes[1] - sizes[0])
    assert "--match" in matched["command"] and all(entry["tokens"] > 0 for entry in matched["entries"])
    lines = good("compare", runs / "two", runs / "one", texts, "--length", "96", "--folder", tmp_path / "out").stdout
    assert lines.count("bits per byte; from token 64 on") == 2
    refused("no text was given", "compare", runs / "one", "--folder", tmp_path)
    refused("nothing to compare", "compare", texts, "--folder", tmp_path)
    refused("name the text to train on with --train", "compare", tmp_path / "none.json", texts, "--folder", tmp_path)
    refused("is given twice", "compare", runs / "one", runs / "one", texts, "--folder", tmp_path)
