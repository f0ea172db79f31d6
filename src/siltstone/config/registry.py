"""Finds the members of each family in its folder: a new member is one new file.

`members("memory")` maps the names of the update rules to their classes; likewise `"compress"`, `"cache"`, and `"segments"` for
the kinds of segment, which are banks, and `"tasks"` for the tasks of the laboratory.
A module defines a member as a class with the attribute `name`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from ..errors import ConfigError
from . import papers

FAMILIES = ("compress", "memory", "cache")
FOLDERS = {"segments": "bank", "tasks": "eval.tasks"}
FACTS = ("about", "equations", "source", "state", "cost", "for", "can", "cannot")


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For members without options of their own."""


@cache
def members(family: str) -> Mapping[str, type]:
    """Name -> class of every member of a family, in alphabetical order; read-only."""
    package = importlib.import_module(f"siltstone.{FOLDERS.get(family, family)}")
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for thing in list(vars(module).values()):
            if isinstance(thing, type) and thing.__module__ == module.__name__ and "name" in vars(thing):
                found[vars(thing)["name"]] = thing
    return MappingProxyType(dict(sorted(found.items())))


def member(family: str, name: str) -> Any:
    """The class of one member, or ConfigError."""
    known = members(family)
    if not isinstance(name, str) or name not in known:
        if said := papers.advice(family, name, list(known)):
            raise ConfigError(f"{family}={name!r} is not a name here; {said}")
        near = difflib.get_close_matches(str(name), list(known), 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"{family}={name!r} is not known; choose one of {list(known)}{hint}")
    return known[name]


def options(cls: Any, given: dict[str, Any]) -> Any:
    """A member's `Options` from `memory_options`, `compress_options` or `cache_options`; ConfigError for unknown keys."""
    family = cls.__module__.split(".")[-2]
    known = [f.name for f in dataclasses.fields(cls.Options)]
    if not isinstance(given, dict):
        defaults = json.dumps(dataclasses.asdict(cls.Options()))
        mend = (
            f"for example {family}_options={defaults}" if known else f"{family}={cls.name!r} has none: leave {family}_options out"
        )
        raise ConfigError(f"{family}_options={given!r} must be a mapping of the member's own options; {mend}")
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            takes = f"its options are {known}{hint}" if known else f"it has none: leave {family}_options out"
            raise ConfigError(f"{family}_options has no key {key!r} for {family}={cls.name!r}; {takes}")
    return cls.Options(**given)


def settings(family: str) -> list[tuple[str, dict[str, Any]]]:
    """Every member's name and options: the defaults ({}), and the variants that the member lists."""
    return [(name, options) for name, cls in members(family).items() for options in ({}, *getattr(cls, "variants", ()))]


def label(name: str, options: dict[str, Any]) -> str:
    """`("gated", {"decay": "channel"})` -> `"gated, decay=channel"`; for the value True only the key is written."""
    return ", ".join([name, *(key if value is True else f"{key}={value}" for key, value in options.items())])


def facts(cls: type) -> dict[str, str]:
    """The parts of the docstring of a member's file, a key for each of `FACTS`; "" for a part that is missing.

    about      the first line, without the source if there is one
    equations  the indented lines
    The other parts follow `Source:`, `State:`, `Cost:`, `For:`, `Can:` and `Cannot:`; each ends at the next of these words or at
    the end of the paragraph.
    """
    text = inspect.cleandoc(importlib.import_module(cls.__module__).__doc__ or "")
    found = dict.fromkeys(FACTS, "")
    found["about"] = text.partition("\n")[0].split("  Source:")[0]
    found["equations"] = "\n".join(line.strip() for line in text.splitlines() if line.startswith("    "))
    for paragraph in text.split("\n\n"):
        parts = re.split(r"(?:^|(?<=\s))(Source|State|Cost|For|Can|Cannot): ", " ".join(paragraph.split()))
        found |= {key.lower(): said.strip() for key, said in zip(parts[1::2], parts[2::2], strict=True)}
    return found


def described(family: str) -> list[dict[str, Any]]:
    """Every member's name, its options with their defaults, and its `facts`."""
    overrides = {name: getattr(cls, "Options", None) for name, cls in members(family).items()}
    options = {name: {} if cls is None else dataclasses.asdict(cls()) for name, cls in overrides.items()}
    return [{"name": name, "options": options[name], **facts(cls)} for name, cls in members(family).items()]
