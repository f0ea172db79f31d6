"""Tables that are written by hand agree with the code: presets, keys and options, bounds in docs/doctor.md."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

import siltstone as st
from siltstone.config import registry
from siltstone.config.layer import LayerConfig
from siltstone.doctor import equality, findings, gates, run

ROOT = Path(__file__).resolve().parents[2]
MODEL = (ROOT / "docs/model.md").read_text("utf-8")
KEYS = (ROOT / "docs/configuration.md").read_text("utf-8")
DOCTOR = (ROOT / "docs/doctor.md").read_text("utf-8")


def table(page: str, head: str) -> list[list[str]]:
    """Cells of the rows of the table whose first heading is `head`."""
    rows = page[page.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize("row", table(MODEL, "preset"), ids=lambda row: row[0])
def test_presets(row: list[str]) -> None:
    (name,), (size, vocab) = words(row[0]), re.fullmatch(r"([\d.]+) M \(([\d,]+)\)", row[1]).groups()  # type: ignore[union-attr]
    cfg = st.presets.get(name, vocab_size=int(vocab.replace(",", "")))
    with torch.device("meta"):
        count = st.LM(cfg).parameters_count / 1e6
    assert float(size) == pytest.approx(count, rel=0.03)
    layer = cfg.layer
    assert [int(cell) for cell in row[2:7]] == [layer.d_model, layer.heads, cfg.depth, layer.window, layer.segment]
    assert words(row[7]) == [layer.memory, layer.cache] and (cfg.pattern, layer.segments) == ("m", "logarithmic")


def test_every_preset_and_every_key_has_a_row() -> None:
    assert [words(row[0])[0] for row in table(MODEL, "preset")] == st.presets.names()
    rows = table(KEYS, "key")
    keys = [key for row in rows for key in words(row[0])]
    assert sorted(keys) == sorted(f.name for f in dataclasses.fields(LayerConfig))
    named = {words(row[0])[0]: {*words(row[2])} for row in rows}
    assert all(named[family] == {*registry.members(family)} for family in registry.FAMILIES)
    model = KEYS[KEYS.index("## Keys of a model") :]
    found = {key for row in table(model, "key") for key in words(row[0])}
    assert found == {f.name for f in dataclasses.fields(st.LMConfig) if f.name != "layer"}


def test_every_option_has_a_row_with_its_default() -> None:
    rows = table(KEYS, "member")
    found = {(*words(row[0])[0].split("="), words(row[1])[0]): json.loads(words(row[3])[0]) for row in rows}
    told = {
        (f, m["name"], key): value
        for f in registry.FAMILIES
        for m in registry.described(f)
        for key, value in m["options"].items()
    }
    assert found == told and len(found) == len(rows)


def test_the_doctors_bounds() -> None:
    rows = {row[0]: row[1] for row in table(DOCTOR, "figure")}
    assert (
        f"at most {findings.STUCK:.0%}"
        in rows[f"saturated gates (below {gates.SHUT} or above {gates.OPEN}; softmax: the largest)"]
    )
    entropy = f"below {findings.ALIKE:.1%} of its limit, or gates that vary by {findings.STILL} from token to token"
    assert rows["entropy of a token's gates"] == entropy
    assert rows["softmax: weight of the online memory"] == f"at most {1 - findings.STILL:.0%}"
    assert rows["checkpoints of some age"].startswith(f"read by at least {findings.UNREAD:.0%}")
    assert f"{findings.VANISHED:.0e}" in rows["gradient through the memory, beyond window and segment"]
    assert f"{findings.CLIFF:g}-fold" in rows["... from one doubling of n to the next"]
    assert f"at most {findings.EXPLODED:g} times" in rows["any gradient"]
    allowed = " in float32, ".join(f"{x:.0e}" for x in equality.TOLERANCE.values())
    assert allowed in rows["difference between ways of reading, of the largest logit"]
    lengths = [row[1] for row in table(DOCTOR, "part")]
    assert f"{run.CUTS} segments" in lengths[0] and f"{run.SURVEYED} segments" in lengths[1] and "four rows" in lengths[1]
    assert (gates.EXAMPLES, len(equality.WAYS)) == (4, 10) and "ten ways" in DOCTOR
