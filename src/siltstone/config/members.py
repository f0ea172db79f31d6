"""The members that a layer uses. The options of each are parsed once, into the member's own dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import aliases, registry


@dataclass(frozen=True)
class Chosen:
    """A member's class, and the options that a layer gives it: an instance of `cls.Options`."""

    cls: Any
    options: Any


@dataclass(frozen=True)
class Members:
    """The update rule, the compressor and the caching policy of a layer."""

    memory: Chosen
    compress: Chosen
    cache: Chosen

    def check(self, cfg: Any) -> None:
        """Raise ConfigError if a member cannot work with its options or with the other keys of the layer."""
        for chosen in (self.compress, self.memory, self.cache):
            chosen.cls.check(cfg, chosen.options)
        registry.member("segments", cfg.segments).check(cfg)


def parse(cfg: Any) -> tuple[Members, dict[str, dict[str, Any]]]:
    """The members that a layer's keys name, and their options under the present names. Raises ConfigError."""
    chosen, given = {}, {}
    for family in registry.FAMILIES:
        cls, key = registry.member(family, getattr(cfg, family)), f"{family}_options"
        options = getattr(cfg, key)
        given[key] = aliases.options(family, cls.name, options) if isinstance(options, dict) else options
        chosen[family] = Chosen(cls, registry.options(cls, given[key]))
    return Members(**chosen), given
