"""The result of an examination."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..core.plain import plain
from .equality import Check
from .findings import Finding


@dataclass
class Record:
    """The result of an examination; `to_dict()` is ready for JSON."""

    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    gradient: dict[str, Any] = field(default_factory=dict)
    answered: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every way of reading agrees."""
        return all(c.ok for c in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The result as plain values; nan and infinity become None."""
        found = {
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
            "facts": self.facts,
            "equality": [asdict(c) | {"ok": c.ok} for c in self.checks],
            "gates": self.gates,
            "gradient": self.gradient,
            "answered": self.answered,
            "told": self.told,
        }
        return plain(found)
