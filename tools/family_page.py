"""Writes docs/family.md, docs/recipes.md and docs/family/ from the members' own files; `--check` only compares.

The facts about a member are in the docstring of its file (see `siltstone.config.registry.facts`). Pictures are
drawn from docs/family/toys.json (tools/family_toys.py adds missing entries), speeds are those of docs/family/speed.json,
which `siltstone bench --rules --json-out docs/family/speed.json` writes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import family_choices
import family_merged
import family_pictures
import family_recipes
import family_toys

import siltstone as st
from siltstone.config import registry

DOCS = Path(__file__).resolve().parent.parent / "docs"
FOLDER = DOCS / "family"
HEAD = """# The family

Update rules, compressors, caching policies and other choices of a layer: one table each, and one page for each member.
[Recipes](recipes.md) say which to use for a task. Made by `make docs` from the members' own files; do not edit.
`siltstone list --json` prints the same facts.

| table | key | chooses |
|---|---|---|
| [Update rules](#update-rules) | `memory` | how a write changes the state, and how the state is read |
| [Compressors](#compressors) | `compress` | how `rate` tokens become one write |
| [Caching policies](#caching-policies) | `cache` | which sealed states are read, and with what weights |
| [Segments](#segments) | `segments`, `start` | where a segment ends, and which checkpoints remain |
| [Finding a checkpoint](#finding-a-checkpoint) | `router`, `routing`, `gate`, `gate_distance` | how a token finds checkpoints |
| [Budgets](#budgets) | `max_checkpoints`, `max_bytes`, `evict`, `checkpoint_dtype` | what a row may keep |

What happens to states when two checkpoints are merged is described on [another page](family/merged.md).

## Terms

Letters: H heads, J key-value heads of exact attention (`kv_heads`), K and V widths of a key and a value, D width of the
model, F hidden width of an MLP memory, U width of a routing key, m slots per head (`slots`) or tokens of a sub-block (`router`),
C writes of a segment, P numbers of a checkpoint (a checkpoint keeps [part of a state](family/merged.md)), X places of a
budget; x is a token, c a write's token or compressed tokens. Two words have several meanings: `gated` is a rule, a compressor
and a policy; `top_k` is a number of checkpoints, and in `generate` a number of tokens.
*State* is for one layer and one row. *Cost* is in multiply-adds per token for writing and reading, one token at a time, without
the projections of keys, values and gates.

| word | what it means here |
|---|---|
| write | one change of the memory's state, by one token, or by `rate` tokens that a compressor combined |
| pair | a key and a value, both computed from a write; *recall* means that reading with the key returns the value |
| segment, checkpoint | `segment` written tokens; a copy of the state, sealed at a segment's end and never written again |
| online memory | the state that receives writes |
| gate | the weight of a checkpoint, or of a write: a number from 0 to 1, computed from the token |
| row, session | one text of a batch; a row that is kept in a file |
"""
FAMILIES = {
    "memory": (
        "Update rules",
        "How a write changes the state, and how the state is read: the key `memory`.",
        f"""One head with K = V = {family_toys.HEAD}, trained for {family_toys.STEPS} steps to hold the last value of each of
        {family_toys.KEYS} keys, more than K. Key A is written twice. The curves are cosines between the memory's output and
        the written value, averaged over 256 streams. A rule that replaces has A's first value at 0 after the second write; one
        that only adds has both values halfway. Green shows keys that were written once, at the beginning: it is highest
        for rules that forget nothing, and is not a measure of recall by itself.""",
        f"""Three columns are measured in a toy: one head with K = V = {family_toys.HEAD}, trained to hold the last value of each
        of {family_toys.KEYS} keys. *Recall*: the cosine of outputs and the last values of all keys, after
        {len(family_toys.STREAM)} writes, a mean of 512 fresh streams like those of training. *Old value*: the cosine of key A's
        output and its first value, right after A was written again: 0 if a write replaces, 0.7 if old and new add up (if
        recall is 0.2, there was little to replace). *Parity*: the share of right answers to whether the number of ones in a
        stream of bits is odd so far, for {family_toys.BITS} bits as in training / for twice as many; 0.5 is chance. It is the
        smallest state-tracking task. Parity is a mean of three seeds; the others are of one seed (seed 1 changed recall of `deep`
        by 0.1, of `linear`, `titans`, `gated_delta` by at most 0.01). None of these measures says what a rule does for text.""",
    ),
    "compress": (
        "Compressors",
        "How `rate` tokens become one write: the key `compress`.",
        f"""The share that each token of a block of {family_toys.BLOCK} has in the write, after {family_toys.STEPS} steps of
        training to pass on the one token that carries a mark.""",
        "",
    ),
    "cache": (
        "Caching policies",
        "Which sealed states are read, and with what weights: the key `cache`.",
        f"""A layer (`memory` gated, K = {family_toys.HEAD}, segments of {2 * family_toys.FACTS}, `top_k` 2), trained for
        {family_toys.STEPS} steps. A segment has a topic, states {family_toys.FACTS} facts and asks as many questions: about its
        own facts, or, if its topic has occurred before, about the facts stated then. Dark cells: the facts of that segment (rows)
        influence the answer to that token (columns).""",
        """How much is recalled with each policy, and with each way of finding a checkpoint (`router`, `routing`), is measured
        on [another page](recall.md).""",
    ),
}
KINDS = {"memory": "an update rule", "compress": "a compressor", "cache": "a caching policy"}


NEAR_LINEAR = """
Why `deep` and `titans` are near `linear` here: a write takes its gradient at the weights of its batch's start
(`inner_batch`, 16 writes), so each half of a stream of {writes} writes is written without regard to its own writes.
With `inner_batch=1`, one write after the other, recall of `titans` rises from {titans} to {titans_1}, as high as `gated_delta`
({gated_delta}). `deep` hardly gains ({deep} and {deep_1}; its seeds differ by more): its writes add up, and none
replaces. Neither the limit on their norms (the same figures with `limit=null`) nor a larger `inner_lr` matters; five times the
training steps raise `deep` to 0.56 and `titans` to 0.59, and do not change `linear`. `slots` has 16 slots for 12 keys.
"""


def files() -> dict[Path, str]:
    """Every file that this tool writes, with its content."""
    found = {DOCS / "family.md": page(), DOCS / "recipes.md": recipes(), FOLDER / "merged.md": merged()}
    measured = speed()
    for family in FAMILIES:
        for member in registry.described(family):
            name = anchor(family, member["name"])
            found[FOLDER / f"{name}.md"] = section(family, member, measured) + "\n"
            if shown := panels(family, member["name"]):
                found[FOLDER / f"{name}.svg"] = family_pictures.picture(family, shown)
    for part in family_choices.parts():
        for choice in part.choices:
            found[FOLDER / f"{choice.anchor}.md"] = family_choices.section(part, choice, plain, filled) + "\n"
    return found | {FOLDER / name: picture for name, picture in family_choices.pictures().items()}


def panels(family: str, name: str) -> dict[str, Any]:
    """The figures of a member's settings, by their labels."""
    toys = json.loads(family_toys.PATH.read_text("utf-8")).get(family, {})
    labels = [registry.label(n, options) for n, options in family_toys.shown(family) if n == name]
    return {label: toys[label] for label in labels if label in toys}


def page() -> str:
    """The index."""
    measured = speed()
    parts = [HEAD]
    for family, (title, key, _, columns) in FAMILIES.items():
        members = registry.described(family)
        parts += [f"## {title}\n\n{key}", guide(family, members, measured), filled(columns)]
        if family == "memory":
            parts.append(about_speed(measured))
    for part in family_choices.parts():
        parts += family_choices.page(part, plain, filled)
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def filled(words: str) -> str:
    """The words, wrapped into lines."""
    return textwrap.fill(" ".join(words.split()), 128, break_on_hyphens=False)


def recipes() -> str:
    """The page of recipes."""
    parts = ["# Recipes", "Made by `make docs`; do not edit.", filled(family_recipes.HEAD)]
    for recipe in family_recipes.RECIPES:
        facts = [f"- measured: {recipe.measured}.", f"- not measured: {recipe.unmeasured}."]
        state = f"- state after {family_recipes.TOKENS:,} tokens: {recipe.state:,} bytes per row"
        parts.append("\n".join([f"## {recipe.need}\n", f"```python\n{recipe.line}\n```\n", state, *facts]))
    return "\n\n".join(parts) + "\n"


def toys(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The measured figures of a rule; empty if there are none."""
    return json.loads(family_toys.PATH.read_text("utf-8")).get("memory", {}).get(registry.label(name, options), {})


def recall(name: str, options: dict[str, Any]) -> str:
    """A rule's recall at the end of the toy stream."""
    found = toys(name, options)
    return f"{found['all'][-1]:.2f}" if found else ""


def measures(name: str, options: dict[str, Any]) -> str:
    """Cells: recall, cosine with a replaced value, parity at the training length and at twice that length."""
    found = toys(name, options)
    if not found:
        return " | | "
    old, (near, far) = found["first"][family_toys.STREAM.rindex("A")], found["parity"]
    return f"{recall(name, options)} | {old:.2f} | {near:.2f} / {far:.2f}"


def near_linear() -> str:
    """The explanation of the figures of rules with an inner loss."""
    figures = {name: recall(name, {}) for name in ("deep", "titans", "gated_delta")}
    figures |= {f"{name}_1": recall(name, options) for name, options in family_toys.MORE["memory"]}
    return filled(NEAR_LINEAR.format(writes=len(family_toys.STREAM), **figures))


def merged() -> str:
    """The page about merged checkpoints."""
    head = ['| rules | a checkpoint is | logarithmic, restart | `evict="merge"`, restart |', "|---|---|---|---|"]
    rows = [
        f"| {', '.join(f'`{rule}`' for rule in rules)} | {' | '.join(map(plain, words))} |"
        for rules, *words in family_merged.KINDS
    ]
    words = map(filled, plain(family_merged.HEAD).split("\n\n"))
    made = "Made by `make docs`; do not edit. [All members](../family.md)."
    return "\n\n".join(["# Merged checkpoints", made, *words, "\n".join([*head, *rows])]) + "\n"


def guide(family: str, members: list[dict[str, Any]], measured: dict[str, Any] | None = None) -> str:
    """A table to choose a member by need."""
    rule = family == "memory"
    last, more = ("floats at H = 4, K = V = 32 | recall | old value | parity |", "---|---|---|") if rule else ("state |", "")
    fast = " tokens/s |" if measured else ""
    rows = [f"| for | take | cost | {last}{fast}", f"|---|---|---|---|{more}{'---|' * bool(fast)}"]
    for member in members:
        name = member["name"]
        need, cost, state = (plain(member[fact]).removesuffix(".") for fact in ("for", "cost", "state"))
        end = f"{floats(name):,} | {measures(name, {})}" if rule else state
        rows.append(
            f"| {need} | [`{name}`](family/{anchor(family, name)}.md) | {cost} | {end} |{pace(family, name, {}, measured)}"
        )
        for options in [o for n, o in family_toys.shown(family) if n == name and o] if rule else []:
            last = pace(family, name, options, measured)
            rows.append(f"| | `{name}` with `{json.dumps(options)}` | | | {measures(name, options)} |{last}")
    return "\n".join(rows)


def pace(family: str, name: str, options: dict[str, Any], measured: dict[str, Any] | None) -> str:
    """A cell: thousands of tokens per second, forward, at the longest text that was measured."""
    if measured is None:
        return ""
    passes = [more for more in timed(family, name, measured) if (more["options"], more["pass"]) == (options, "forward")]
    return f" {passes[0]['tokens_per_second'] / 1e3:,.0f}k |" if passes else " |"


def timed(family: str, name: str, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The measurements of a member, with the first number of threads and the longest text."""
    rows = [row["more"] for row in measured["rows"] if row["more"] and row["threads"] == measured["threads"][0]]
    rows = [more for more in rows if (more["family"], more["member"]) == (family, name)]
    return [more for more in rows if more["tokens"] == max(other["tokens"] for other in rows)]


def floats(rule: str) -> int:
    """Numbers in the state of a rule at the benchmark's sizes."""
    layer = st.MemoryCaching(128, heads=4, window=0, write_delay=0, cache="none", memory=rule)
    return sum(leaf.numel() for _, leaf in layer.mix.memory.init(1).leaves())


def anchor(family: str, name: str) -> str:
    """The name of a member's page and picture."""
    return f"{family}-{name}"


def section(family: str, member: dict[str, Any], measured: dict[str, Any] | None) -> str:
    """The page of one member."""
    name, told = member["name"], {"can": "**can**", "cannot": "**cannot**", "state": "state", "cost": "cost", "source": "source"}
    title, _, drawn, _ = FAMILIES[family]
    top = f'[{title}](../family.md#{title.lower().replace(" ", "-")}): {KINDS[family]}, `{family}="{name}"`.'
    out = [f"# {plain(name)}", top, lower(plain(member["about"]))]
    if member["equations"]:
        out.append(f"```text\n{member['equations']}\n```")
    if panels(family, name):
        out += [f"![{name} on a toy stream]({anchor(family, name)}.svg)", filled(drawn)]
    lines = [f"- {told[fact]}: {lower(plain(member[fact]))}" for fact in told if member[fact]]
    if member["options"]:
        lines.append(f"- options: `{json.dumps(member['options'])}`")
    if measured:
        lines += [f"- speed, {line}" for line in speeds(name, measured, family)]
    if family == "memory":
        lines += toy_lines(name)
    if name in ("deep", "titans") and family == "memory":
        lines.append("\n" + near_linear())
    return "\n\n".join([*out, "\n".join(lines)])


def toy_lines(rule: str) -> list[str]:
    """One line per setting of a rule with its results in the toy."""
    out = []
    for options in [options for name, options in family_toys.shown("memory") if name == rule]:
        recalled, old, parity = measures(rule, options).split(" | ")
        told = f"recall {recalled}, old value {old}, parity {parity}" if recalled.strip() else "not measured"
        out.append(f"- in the [toy](../family.md#update-rules), {registry.label(rule, options)}: {told}")
    return out


def lower(words: str) -> str:
    """Links relative to docs/, rewritten for a page in docs/family/."""
    return re.sub(r"\]\((?!\.\./|\w+:)([\w./-]+\.md)", r"](../\1", words).replace("](../family/", "](")


def plain(words: str) -> str:
    """Text with stars, underscores and bars escaped, except between backticks."""
    parts = words.split("`")
    return "`".join(part if i % 2 else re.sub(r"([*_<|\[\]])", r"\\\1", part) for i, part in enumerate(parts))


def speed() -> dict[str, Any] | None:
    """The measured rows, or None if there are none; a quick run raises an error."""
    path = FOLDER / "speed.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text("utf-8"))
    if found["quick"]:
        sys.exit(f"{path} is from a quick run; measure again: siltstone bench --rules --json-out {path}")
    return found


def about_speed(measured: dict[str, Any] | None) -> str:
    """Where and when speeds were measured."""
    if measured is None:
        return "Speeds have not been measured yet: `siltstone bench --rules --json-out docs/family/speed.json`, then `make docs`."
    words = (
        f"Speeds were measured on {measured['date']} on {measured['machine']} with torch {measured['torch']}, threads: "
        f"{measured['threads'][0]}, float32, d = 128, 4 heads, one row, and the rule alone in its layer; the comparison is "
        "causal attention with its own projections. Tokens/s in the tables are thousands, forward, for the longest text."
    )
    if any(row["more"].get("family") in ("compress", "cache") for row in measured["rows"]):
        words += (
            " Compressors, with 4 tokens per write, and caching policies were measured in a layer with a window of 64, a `gated` "
        )
        words += "memory and segments of 256 instead; compressors without a cache."
    return filled(words)


def speeds(name: str, measured: dict[str, Any], family: str = "memory") -> list[str]:
    """One line per setting of a member, at the longest text that was measured."""
    out: dict[str, list[str]] = {}
    for more in timed(family, name, measured):
        told = f"{more['pass']} {more['tokens_per_second']:,.0f} tokens/s, {more['against_attention']:.2g} times attention"
        out.setdefault(f"{registry.label(name, more['options'])} at {more['tokens']:,} tokens", []).append(told)
    return [f"{label}: {'; '.join(told)}" for label, told in out.items()]


def lacking() -> list[str]:
    """Members whose file lacks a fact, or that have no picture."""
    out = []
    for family in FAMILIES:
        for member in registry.described(family):
            silent = [fact for fact in registry.FACTS if fact != "equations" and not member[fact]]
            out += [f"{family} {member['name']} lacks {fact.capitalize()}: in the docstring of its file" for fact in silent]
        for name, options in family_toys.shown(family):
            if registry.label(name, options) not in panels(family, name):
                out.append(f"{family} {registry.label(name, options)} has no picture; run `make docs`")
    return out


def main() -> None:
    """The tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = [path for path, content in files().items() if not path.is_file() or path.read_text("utf-8") != content]
    if check and old:
        sys.exit(f"{old[0]} does not match the members' files; run `make docs`")
    wanted = {} if check else files()
    for path in [] if check else [*FOLDER.glob("*.svg"), *FOLDER.glob("*.md")]:
        if path not in wanted:
            path.unlink()
    for path, content in wanted.items():
        path.write_text(content, "utf-8")


if __name__ == "__main__":
    main()
