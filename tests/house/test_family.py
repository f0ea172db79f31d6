"""The family's page: up to date, everything told of every member, pictures that are drawn from what training found."""

from __future__ import annotations

import importlib
import json
import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

from siltstone import registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    """A module of tools/, as `python tools/...` would find it."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("family_page", "family_pictures", "family_toys"):
        sys.modules.pop(name, None)


def test_every_member_says_all_there_is_to_say(tool) -> None:
    lacking = tool("family_page").lacking()
    assert not lacking, "\n".join(lacking)


def test_the_page_and_its_pictures_are_up_to_date(tool) -> None:
    page = tool("family_page")
    wanted = page.files()
    old = [path.name for path, text in wanted.items() if not path.is_file() or path.read_text("utf-8") != text]
    assert not old, "run `make docs`"
    assert not set(page.FOLDER.glob("*.svg")) - set(wanted)


def test_a_member_that_says_nothing_is_listed_and_named(tool, monkeypatch: pytest.MonkeyPatch) -> None:
    page, gru = tool("family_page"), registry.member("memory", "gru")
    monkeypatch.setattr(sys.modules[gru.__module__], "__doc__", "A gated unit.  Source: arXiv 1406.1078.\n\nIt Can: wait.")
    found = {m["name"]: m for m in registry.described("memory")}["gru"]
    said = [found[fact] for fact in ("about", "source", "can", "cannot")]
    assert said == ["A gated unit.", "arXiv 1406.1078.", "wait.", ""]
    assert "memory gru lacks Cannot: in the docstring of its file" in page.lacking()
    assert "</a>gru" in page.page()


def test_facts_end_with_their_paragraph_or_where_the_next_begins() -> None:
    found = registry.facts(registry.member("memory", "titans"))
    assert found["source"] == "arXiv 2501.00663, eqs. 12 to 14." and found["state"].endswith("F = expansion * K.")
    assert found["equations"].startswith("S <- eta S") and found["cost"] == "11 * H * K * F."
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
        assert {len(c) for c in curves.values()} == {len(toys.STREAM)}
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
    assert found["compress"]["conv"]["last"][-1] > 0.9 > 0.3 > max(found["compress"]["conv"]["anywhere"])
    assert found["compress"]["gated"]["anywhere"][1] > 0.9
    back = [[row[t] for row in found["cache"]["gated"]] for t in (30, 38, 46)]  # questions about the topic's first segment
    assert [column.index(max(column)) for column in back] == [0, 2, 1]


def test_pictures_are_small_and_well_formed(tool) -> None:
    for path in tool("family_page").FOLDER.glob("*.svg"):
        ET.fromstring(path.read_text("utf-8"))
        assert path.stat().st_size < 20_000


def test_speeds_are_those_of_the_file(tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tool("family_page")
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    assert page.speed() is None and "not been measured" in page.about_speed(None)
    more = {"rule": "gated", "options": {"decay": "channel"}, "tokens_per_second": 1234.5, "against_attention": 0.5}
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


def test_signs_of_markdown_are_themselves(tool) -> None:
    assert tool("family_page").plain("a_b * `c_d` <e|f>") == r"a\_b \* `c_d` \<e\|f>"
