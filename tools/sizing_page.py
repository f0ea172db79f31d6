"""Writes the section of docs/serving.md with figures of load, from docs/serving.json: results of tools/load.py, one a label.

`python tools/sizing_page.py add FILE` first puts a result of tools/load.py there, in place of one with the same label.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import generated_page

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs" / "serving.md", ROOT / "docs" / "serving.json"
BEGIN, END = "<!-- figures of load: tools/sizing_page.py -->", "<!-- end of the figures -->"
HEADS = ("server", "clients", "tokens each", "first text, ms", "between texts, ms", "written a second", "read an answer")


def _times(found: dict[str, float] | None) -> str:
    return "–" if found is None else f"{found['median']:g} ({found['p95']:g})"


def _rows(label: str, levels: list[dict[str, Any]]) -> list[str]:
    rows = []
    for x in levels:
        read = "–" if x["read_per_answer"] is None else f"{x['read_per_answer']:g}"
        cells = [label, x["clients"], x["tokens"], _times(x["first_ms"]), _times(x["between_ms"]), x["written_per_second"], read]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return rows


def _many(label: str, found: dict[str, Any]) -> str:
    return (
        f"- {label}: {found['sessions']:,} sessions of {found['tokens']:,} tokens, {found['active']} active: "
        f"first text after {_times(found['first_ms'])} ms, {found['written_per_second']:g} tokens a second"
        + (f", {found['resident_MB']:,} MB of memory." if "resident_MB" in found else ".")
    )


def _stored(label: str, found: dict[str, Any]) -> str:
    return (
        f"- {label}: of {found['sessions']:,} stored sessions of {found['tokens']:,} tokens, {found['continued']} went on, one "
        f"by one: first text after {_times(found['first_ms'])} ms; {found['read_again']} were read again."
    )


def _churn(label: str, found: dict[str, Any]) -> str:
    return (
        f"- {label}: {found['minutes']:g} minutes of conversations that begin, go on, are given up and are deleted "
        f"({found['begun']:,}): memory grew by {found['slope_kB_per_minute']:g} kB a minute, from {found['resident_MB'][0]:,} to "
        f"{found['resident_MB'][1]:,} MB."
    )


def section(results: list[dict[str, Any]]) -> str:
    """The section, between its two marks."""
    if not results:
        return "\n".join([BEGIN, "", "No results are committed.", "", END])
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += [row for x in results for row in _rows(x["label"], x.get("levels", []))]
    lines += ["", "Times: median (95 of 100 are below); of the client, over loopback.", ""]
    for name, told in (("many", _many), ("stored", _stored), ("churn", _churn)):
        lines += [told(x["label"], x[name]) for x in results if name in x]
    return "\n".join([BEGIN, "", *lines, "", END])


def page() -> str:
    """The page with the section of the committed results."""
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + section(json.loads(RESULTS.read_text("utf-8"))) + after


def add(file: Path) -> None:
    """Put a result among the committed ones."""
    new = json.loads(file.read_text("utf-8"))
    old = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else []
    kept = {x["label"]: x for x in old}
    kept[new["label"]] = kept.get(new["label"], {}) | new
    RESULTS.write_text(json.dumps(list(kept.values()), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["add"]:
        add(Path(sys.argv.pop(2)))
        sys.argv.pop(1)
    generated_page.main(PAGE, page, __doc__, "docs/serving.json")
