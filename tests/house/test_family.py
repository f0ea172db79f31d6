"""The family's page: up to date, everything told of every member, pictures that are drawn from what training found."""

from __future__ import annotations

import json
import math
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from siltstone.config import registry
from siltstone.config.layer import LayerConfig
from siltstone.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_every_member_says_all_there_is_to_say(tool) -> None:
    lacking = tool("family_page").lacking()
    assert not lacking, "\n".join(lacking)


def test_the_page_and_its_pictures_are_up_to_date(tool) -> None:
    page = tool("family_page")
    wanted = page.files()
    old = [path.name for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    assert not old, "run `make docs`"
    assert not {*page.FOLDER.glob("*.svg"), *page.FOLDER.glob("*.md")} - set(wanted)


def test_every_member_has_a_page_and_the_index_leads_to_it(tool) -> None:
    page, index = tool("family_page"), (ROOT / "docs/family.md").read_text("utf-8")
    names = [page.anchor(family, name) for family in registry.FAMILIES for name in registry.members(family)]
    names += [choice.anchor for part in tool("family_choices").parts() for choice in part.choices]
    assert sorted(f"{name}.md" for name in [*names, "merged"]) == sorted(p.name for p in page.FOLDER.glob("*.md"))
    assert all(f"](family/{name}.md)" in index for name in [*names, "merged"])
    assert index.count("\n") < 200


def test_a_member_that_says_nothing_is_listed_and_named(tool, monkeypatch: pytest.MonkeyPatch) -> None:
    page, gru = tool("family_page"), registry.member("memory", "gru")
    monkeypatch.setattr(sys.modules[gru.__module__], "__doc__", "A gated unit.  Source: arXiv 1406.1078.\n\nIt Can: wait.")
    found = {m["name"]: m for m in registry.described("memory")}["gru"]
    said = [found[fact] for fact in ("about", "source", "can", "cannot")]
    assert said == ["A gated unit.", "arXiv 1406.1078.", "wait.", ""]
    assert "memory gru lacks Cannot: in the docstring of its file" in page.lacking()
    assert page.section("memory", found, None).startswith("# gru\n")


def test_facts_end_with_their_paragraph_or_where_the_next_begins() -> None:
    found = registry.facts(registry.member("memory", "titans"))
    assert found["source"] == "arXiv 2501.00663, eqs. 12 to 14." and found["state"].endswith("F = expansion * K.")
    assert found["equations"].startswith("L = |M(k) - v|^2,   S <- eta S") and found["cost"] == "11 * H * K * F."
    assert registry.facts(registry.member("cache", "sparse"))["about"].startswith("Sparse selective caching (SSC): y =")


def test_list_tells_the_facts() -> None:
    from typer.testing import CliRunner

    from siltstone.cli.app import app

    found = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    for family in registry.FAMILIES:
        assert [m["name"] for m in found[family]] == list(registry.members(family))
        assert all(set(registry.FACTS) <= set(m) for m in found[family])


def test_toys_are_the_same_at_every_run_and_shares_add_up(tool) -> None:
    toys = tool("family_toys")
    for rule in ("gated_delta", "gru", "deep"):
        curves = toys.memory(rule, {}, steps=2)
        assert curves == toys.memory(rule, {}, steps=2)
        assert {len(c) for c in curves.values()} == {len(toys.STREAM), 2} and len(curves["parity"]) == 2
        assert curves["others"][0] is None and None not in curves["first"]
    for name in registry.members("compress"):
        assert all(math.isclose(sum(shares), 1, abs_tol=0.03) for shares in toys.compress(name, {}, steps=2).values())
    columns = zip(*toys.cache("gated", {}, steps=2), strict=True)
    assert all(math.isclose(sum(column), 1, abs_tol=0.04) for column in columns)
    json.dumps(toys.memory("linear", {}, steps=1), allow_nan=False)


def test_what_was_found_is_what_the_members_say() -> None:
    """After the second write of a key the delta rule has forgotten the first value, and what only adds has not."""
    found = json.loads((ROOT / "docs/family/toys.json").read_text("utf-8"))
    again = 10
    for rule in ("delta", "gated_delta"):
        assert found["memory"][rule]["first"][again] < 0.25 and found["memory"][rule]["second"][again] > 0.85
    adds = found["memory"]["linear"]
    assert abs(adds["first"][again] - adds["second"][again]) < 0.1 and adds["first"][again] > 0.5
    for rule in ("gru", "lstm", "slstm", "delta, negative", "gated_delta, negative"):  # twice as far as they were trained
        assert found["memory"][rule]["parity"][1] > 0.95
    for rule in ("linear", "gated", "delta", "gated_delta", "swla", "mlstm", "min_gru", "min_lstm"):
        assert max(found["memory"][rule]["parity"]) < 0.6
    assert found["compress"]["conv"]["last"][-1] > 0.9 > 0.3 > max(found["compress"]["conv"]["anywhere"])
    assert found["compress"]["gated"]["anywhere"][1] > 0.9
    back = [[row[t] for row in found["cache"]["gated"]] for t in (30, 38, 46)]  # questions about the topic's first segment
    assert [column.index(max(column)) for column in back] == [0, 2, 1]


def test_pictures_are_small_and_well_formed(tool) -> None:
    for path in tool("family_page").FOLDER.glob("*.svg"):
        root = ET.fromstring(path.read_text("utf-8"))
        assert path.stat().st_size < 20_000
        assert float(root.attrib["width"]) <= 12 / 11 * 358  # text of 12 keeps 11 pixels on a telephone


def test_speeds_are_those_of_the_file(tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tool("family_page")
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    assert page.speed() is None and "not been measured" in page.about_speed(None)
    more = {
        "family": "memory",
        "member": "gated",
        "options": {"decay": "channel"},
        "tokens_per_second": 1234.5,
        "against_attention": 0.5,
    }
    rows = [
        {"threads": threads, "more": more | {"pass": which, "tokens": tokens}}
        for threads in (2, 1)
        for which in ("forward", "forward + backward")
        for tokens in (2048, 8192)
    ]
    found = {"quick": False, "date": "2026-01-02", "machine": "An Engine", "torch": "2.13", "threads": [2, 1]}
    found["rows"] = [*rows, {"threads": 2, "more": {}}]
    (tmp_path / "speed.json").write_text(json.dumps(found), "utf-8")
    assert "An Engine" in page.about_speed(page.speed()) and "2026-01-02" in page.page()
    told = "forward 1,234 tokens/s, 0.5 times attention; forward + backward 1,234 tokens/s, 0.5 times attention"
    assert page.speeds("gated", page.speed()) == [f"gated, decay=channel at 8,192 tokens: {told}"]
    (tmp_path / "speed.json").write_text(json.dumps(found | {"quick": True}), "utf-8")
    with pytest.raises(SystemExit, match="quick"):
        page.speed()


def test_speeds_of_compressors_and_caches_stand_in_their_sections(tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tool("family_page")
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    same = {"options": {}, "pass": "forward", "tokens": 8192, "tokens_per_second": 4321.0, "against_attention": 0.5}
    rows = [{"threads": 2, "more": same | {"family": family, "member": "gated"}} for family in ("compress", "cache")]
    rows += [{"threads": 2, "more": same | {"family": "memory", "member": "gated", "tokens_per_second": 99.0}}]
    rows += [{"threads": 2, "more": same | {"family": "memory", "member": "linear"}}]
    found = {"quick": False, "date": "2026-01-02", "machine": "An Engine", "torch": "2.13", "threads": [2], "rows": rows}
    for family, told in (("compress", "4,321"), ("cache", "4,321"), ("memory", "99")):
        member = next(m for m in registry.described(family) if m["name"] == "gated")
        assert f"- speed, gated at 8,192 tokens: forward {told} tokens/s" in page.section(family, member, found)
        assert "- speed" not in page.section(family, member, found | {"rows": []})
        assert "- speed" not in page.section(family, member, None)
    assert page.speeds("linear", found) and not page.speeds("linear", found, "cache")
    assert "window of 64" in page.about_speed(found) and "window of 64" not in page.about_speed(found | {"rows": rows[2:]})


def accepted(key: str) -> list[str]:
    """What a layer takes for a key, as it says itself when it refuses."""
    with pytest.raises(ConfigError) as refused:
        LayerConfig(64, **{key: "?"})  # pyright: ignore[reportArgumentType]
    return re.findall(r"'([^']+)'", str(refused.value).partition("choose")[2])


def test_every_choice_of_a_layer_has_an_entry(tool) -> None:
    entries = {choice.name: choice for part in tool("family_choices").parts() for choice in part.choices}
    wanted = [(key, value) for key in ("segments", "start", "gate", "evict") for value in accepted(key)]
    wanted += [("router", value) for value in accepted("router") if not re.search(r"\d", value)]
    wanted += [(key, value) for key in ("routing", "gate_distance") for value in accepted(key) if value not in ("own", "none")]
    names = [f'{key}="{value}"' for key, value in wanted] + accepted("checkpoint_dtype")
    assert sorted(names) == sorted(entries) and len(names) > 12
    for choice in entries.values():
        LayerConfig(64, segment=16, **choice.keys)
        words = (choice.about, choice.need, choice.can, choice.cannot, choice.state, choice.cost, choice.source)
        assert all(word.endswith(".") or word == choice.need for word in words), choice.name
        assert all(value in json.dumps(choice.keys) for value in re.findall(r'="(\w+)', choice.name) if value != "constant")


def test_the_bytes_of_choices_are_those_of_their_formulas(tool) -> None:
    found = tool("family_choices")
    after, number, P, U, H = found.measured, found.SEALED, 4 * 32 * 32, 64, 4
    places = number.bit_length()
    assert after({}) == (number, number * 4 * (P + U))
    assert after({"segments": "content"}) == (2 * number, 2 * number * 4 * (P + U))
    log = {"segments": "logarithmic"}
    assert after(log) == (number.bit_count(), 4 * (places * (P + U) + (places + 1) * H))
    assert after(log | {"memory": "min_gru"}) == (number.bit_count(), 4 * (places * (2 * H * 32 + U) + H * 32))
    assert after(log | {"memory": "gated_delta"}) == (number.bit_count(), 4 * places * (2 * P + U))
    assert after(log | {"start": "carry"}) == (number.bit_count(), 4 * places * (P + U))
    assert after({"router": "subblock:4"})[1] == number * 4 * (P + U * found.SEGMENT // 4)
    assert after({"routing": "shared"})[1] == number * 4 * P
    assert after({"max_checkpoints": 8}) == after({"max_checkpoints": 8, "evict": "merge"}) == (8, 8 * (4 * (P + U) + 24))
    assert after({"max_checkpoints": 8, "evict": "use"}) == (8, 8 * (4 * (P + U) + 40))
    assert after({"checkpoint_dtype": "bfloat16"})[1] == number * (2 * P + 4 * U)
    assert after({"checkpoint_dtype": "int8"})[1] == number * (P + 4 * H * 32 + 4 * U)
    assert after({"max_bytes": 10 * (4 * (P + U) + 24) + 9})[0] == 10


def test_spans_of_the_pictures_are_those_of_the_words(tool) -> None:
    """What gradients found in layers, against what the page says of each choice."""
    found = tool("family_spans")
    assert set(found.PICTURES) == {f"segments-{kind}" for kind in accepted("segments")} | {
        f"evict-{kind}" for kind in accepted("evict")
    }
    each, C, X = found.lives(), found.SEGMENT, found.PLACES
    (constant,), (age,), (use,) = (each[name].values() for name in ("segments-constant", "evict-age", "evict-use"))
    restart, carry = each["segments-logarithmic"].values()
    added, newer = each["evict-merge"].values()
    for n, end in enumerate(constant.ends, 1):
        whole = [(C * i, C * i + C - 1) for i in range(n)]
        assert end == C * n
        assert [(b.first, b.last) for b in constant.live(end)] == whole
        assert [(b.first, b.last) for b in age.live(end)] == whole[-X:]
        picked = [(b.first, b.last) for b in use.live(end)]
        assert len(picked) == min(n, X) and picked[-1] == whole[-1] and set(picked) <= set(whole)
        spans = sorted((b.first, b.last + 1) for b in restart.live(end))
        assert [(b - a) // C for a, b in spans] == [1 << i for i in range(n.bit_length() - 1, -1, -1) if n >> i & 1]
        assert [a for a, _ in spans[1:]] + [end] == [b for _, b in spans] and spans[0][0] == 0
        assert sorted(b.last + 1 for b in carry.live(end)) == [b for _, b in spans]
        merged = sorted((b.first, b.last + 1) for b in added.live(end))
        assert len(merged) == min(n, X) and [a for a, _ in merged[1:]] + [end] == [b for _, b in merged]
        assert sorted(b.last + 1 for b in newer.live(end)) == [b for _, b in merged]
        assert all(b.first == 0 for life in (carry, newer) for b in life.live(end))
    (content,) = each["segments-content"].values()
    assert {t + 1 for t in found.CUTS} < set(content.ends)
    assert max(b.last + 1 - b.first for b in content.blocks) == found.LONGEST and len(content.blocks) == len(content.ends)


def test_signs_of_markdown_are_themselves(tool) -> None:
    assert tool("family_page").plain("a_b * `c_d` <e|f>") == r"a\_b \* `c_d` \<e\|f>"
