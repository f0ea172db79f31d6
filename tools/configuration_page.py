"""Writes docs/configuration.md from the configuration's own tables; `--check` only reports whether the page is up to date."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siltstone.config import aliases, constraints, idle_keys, kinds, model, registry
from siltstone.config.layer import LayerConfig
from siltstone.config.model import LMConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
HEAD = """# Configuration

Made by `make docs` from `src/siltstone/config`; do not edit.

A configuration is a flat mapping of keys. The same keys are arguments of `st.LMConfig.from_dict`, `st.presets.NAME(...)` and
`cfg.replace(...)`, entries of `config.json` and of a `--config` file (JSON or TOML), and `--set key=value` of `siltstone train`.
`st.MemoryCaching(...)` takes those of a layer. Values that cannot work raise ConfigError, which says what to change.

- Unused keys raise ConfigError unless they are at their defaults. The column *requires* says what at least one memory layer must
  have for a key to be used. `routing=shared` also requires an earlier memory layer with gates that seals the same tokens. Models
  without memory layers (`pattern` without `m`) may keep memory keys, so that a model and its window-only twin differ in `pattern`
  alone.
- Window keys are ignored when `window=0`.
- `null` (Python: `None`) means unset.
- A saved state is valid only with the configuration that created it.
- `top_k` and `temperature` here configure a layer's cache. The sampling options `top_k` and `temperature` of `siltstone generate`
  and `Session.generate` have the same names and are not keys of a configuration.
"""
ROWS = (*constraints.LAYER, *model.SHAPE, *model.MODEL)
RULES = {row.rule: n for n, row in enumerate(ROWS, 1)}
EACH = {
    "layers": 'for example `--set \'layers={"0": {"memory": "titans", "window": 32}, "-1": {"cache": "sparse"}}\'`',
    "pattern": 'for example `"mmw mma"`: every sixth block has full attention',
}


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Keys of a layer\n", *_keys(LayerConfig), "\n## Keys of a model\n"]
    parts += _keys(LMConfig)
    parts += ["\n## Constraints\n", "Numbers in the last columns above are those of this list.\n"]
    parts += [f"{number}. {rule}" for rule, number in RULES.items()]
    parts += ["\nMembers:\n", *_checks()]
    parts += ["\n## Options of members\n", "Given as `memory_options`, `compress_options` and `cache_options`, for example", ""]
    parts += ['    --set \'memory_options={"decay": "channel"}\'\n', *_options()]
    parts += ["\n## Older names\n", "They still work, with a `RenamedKeyWarning`, and in older files without one.\n"]
    parts += ["| older | now | of |", "|---|---|---|"]
    for alias in aliases.ALIASES:
        of = " and ".join(f"`{alias.family}={name}`" for name in alias.members) or "the configuration"
        parts.append(f"| `{alias.old}` | `{alias.new}` | {of} |")
    return "\n".join(parts) + "\n"


def _keys(cls: Any) -> Iterator[str]:
    """One row per key: its type, values, default, meaning, and what it requires or excludes."""
    yield "| key | type | values | default | meaning | requires | constraints |"
    yield "|---|---|---|---|---|---|---|"
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name, key in kinds.keys(cls).items():
        rules = ", ".join(str(RULES[row.rule]) for row in ROWS if name in row.keys)
        used = _use(idle_keys.USES[name]) if name in idle_keys.USES else ""
        cells = [key.kind.type, key.kind.values, key.default or _default(fields[name]), key.meaning, used, rules]
        if name in EACH:
            cells[3] += f"; {EACH[name]}"
        yield " | ".join([f"| `{name}`", *(cell.replace("|", "\\|") for cell in cells)]) + " |"


def _use(use: idle_keys.Use) -> str:
    values = f"{' and '.join(f'`{value}`' for value in use.values)}: " if use.values else ""
    return f"{values}requires {use.mend}"


def _default(field: Any) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    return "required" if field.default is dataclasses.MISSING else f"`{json.dumps(field.default)}`"


def _options() -> Iterator[str]:
    """One row per option of a member, with its meaning from the docstring of its dataclass."""
    yield "| member | option | type | default | meaning |"
    yield "|---|---|---|---|---|"
    for family in registry.FAMILIES:
        for name, cls in registry.members(family).items():
            said = meanings(cls.Options)
            for field in dataclasses.fields(cls.Options):
                default = json.dumps(field.default)
                kind = {"int": "integer", "str": "string", "bool": "boolean", "float": "number"}[field.type.partition(" |")[0]]
                kind += " or null" if field.type.endswith("None") else ""
                yield f"| `{family}={name}` | `{field.name}` | {kind} | `{default}` | {said[field.name]} |"


def _checks() -> Iterator[str]:
    """One line per member with a check: the check's docstring."""
    for family in registry.FAMILIES:
        general = importlib.import_module(f"siltstone.{family}.base").__dict__.values()
        shared = {x.check.__func__ for x in general if hasattr(x, "check")}
        for name, cls in registry.members(family).items():
            if cls.check.__func__ not in shared:
                yield f"- `{family}={name}`: " + " ".join((cls.check.__doc__ or "").split()).rstrip(".")


def meanings(cls: Any) -> dict[str, str]:
    """The meanings in the docstrings of an options dataclass and its bases: `name: meaning. other: meaning.`"""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = " ".join((inspect.cleandoc(base.__doc__ or "") if dataclasses.is_dataclass(base) else "").split())
        names = "|".join(field.name for field in dataclasses.fields(base)) if text else ""
        if names:
            parts = re.split(rf"(?:^|(?<=[.;] ))({names}): ", text)
            found |= {
                name: said.strip().rstrip(".").replace("|", "\\|") for name, said in zip(parts[1::2], parts[2::2], strict=True)
            }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if not PAGE.is_file() or PAGE.read_text("utf-8") != page():
            sys.exit(f"{PAGE} does not match the configuration; run `make docs`")
    else:
        PAGE.write_text(page(), "utf-8")
