"""Finds the members of each family by looking into its folder: a new member is one new file.

`members("memory")` maps the names of the update rules to their classes; likewise `"compress"` and `"cache"`.
A module offers a member by defining a class with its own `name`.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from .config import LayerConfig

FAMILIES = ("compress", "memory", "cache")


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """For members without options of their own."""


@cache
def members(family: str) -> dict[str, type]:
    """Name -> class of every member of a family, in alphabetical order."""
    package = importlib.import_module(f"siltstone.{family}")
    found: dict[str, type] = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for thing in vars(module).values():
            if isinstance(thing, type) and thing.__module__ == module.__name__ and "name" in vars(thing):
                found[vars(thing)["name"]] = thing
    return dict(sorted(found.items()))


def member(family: str, name: str) -> Any:
    """The class of one member, or ConfigError."""
    known = members(family)
    if not isinstance(name, str) or name not in known:
        near = difflib.get_close_matches(str(name), list(known), 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"{family}={name!r} is not known; choose one of {list(known)}{hint}")
    return known[name]


def options(cls: Any, given: dict[str, Any]) -> Any:
    """A member's own `Options` made from `memory_options`, `compress_options` or `cache_options`, unknown keys refused."""
    family = cls.__module__.split(".")[-2]
    known = [f.name for f in dataclasses.fields(cls.Options)]
    for key in given:
        if key not in known:
            raise ConfigError(f"{family}_options has no key {key!r} for {family}={cls.name!r}; its options are {known}")
    return cls.Options(**given)


def described(family: str) -> list[dict[str, Any]]:
    """Every member's name, the first line of its file, and its options with their defaults."""
    found = []
    for name, cls in members(family).items():
        about = (importlib.import_module(cls.__module__).__doc__ or "").strip().splitlines()[0].split("  Source:")[0]
        found.append({"name": name, "about": about, "options": dataclasses.asdict(cls.Options())})
    return found


def validate_layer(cfg: LayerConfig) -> None:
    """Check what only the members know: names, options, and combinations that one of them refuses."""
    for family in FAMILIES:
        cls = member(family, getattr(cfg, family))
        cls.check(cfg, options(cls, getattr(cfg, f"{family}_options")))
    rule = member("memory", cfg.memory)
    batch = getattr(options(rule, cfg.memory_options), "inner_batch", cfg.group)
    if batch % cfg.group:
        raise ConfigError(
            f"memory_options inner_batch={batch} is not a multiple of the {cfg.group} writes at once that compress_every="
            f"{cfg.compress_every} with rate={cfg.rate} makes; choose inner_batch={-(-batch // cfg.group) * cfg.group}"
        )
    if cfg.bounded and cfg.evict == "merge" and cfg.start == "restart" and not rule.adds_up:
        raise ConfigError(
            f"evict='merge' adds up what restarted segments hold, and states of memory={cfg.memory!r} do not add up; "
            "set evict='age' or 'use', or start='carry'"
        )
