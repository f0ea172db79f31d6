"""Imports run one way: from the commands down to the errors, without circles, and no two rooms import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "siltstone"
ROOMS = [
    "errors", "shapes", "core", "io", "ops", "config", "state", "schedule", "memory", "compress", "cache", "bank", "layers",
    "text", "models", "inference", "serve", "hf", "eval", "train", "report", "demo", "doctor", "bench", "lm_eval", "cli",
    "__main__", "__init__",
]  # fmt: skip
FILES = {path: ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in sorted(ROOT.rglob("*.py"))}
MODULES = {name.removesuffix(".__init__"): path for path, name in FILES.items()}


def statements(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of a module that are not inside a function; those for type checkers too."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from statements([x for part in ("body", "orelse", "finalbody") for x in getattr(node, part, [])])
            yield from (found for handler in getattr(node, "handlers", []) for found in statements(handler.body))


def imported(name: str, path: Path, text: str | None = None) -> set[str]:
    """The modules of ours that a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in statements(ast.parse(path.read_text("utf-8") if text is None else text).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*parts, *([node.module] if node.module else [])])
        found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names}
    return (found & MODULES.keys()) - {name}


GRAPH = {name: imported(name, path) for name, path in MODULES.items()}


def room(name: str) -> str:
    return [*name.split("."), "__init__"][1]


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in MODULES} == set(ROOMS)


def test_imports_run_downwards() -> None:
    """So that no two rooms import each other."""
    place = {name: ROOMS.index(room(name)) for name in MODULES}
    upward = [f"{name} imports {other}" for name, found in GRAPH.items() for other in found if place[other] > place[name]]
    assert not upward


def test_no_circles() -> None:
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(GRAPH[name]):
                walk(other, (*path, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import siltstone.cli.app", "cli.app"),
        ("if TYPE_CHECKING:\n    from ..models.lm import LM", "models.lm"),
        ("try:\n    from . import tree\nexcept ImportError:\n    pass", "state.tree"),
        ("try:\n    pass\nexcept ImportError:\n    from .. import errors", "errors"),
        ("def later():\n    from ..train import fit", None),
    ],
)
def test_what_counts_as_an_import(text: str, found: str | None) -> None:
    wanted = set() if found is None else {f"siltstone.{found}"}
    assert imported("siltstone.state.claims", ROOT / "state" / "claims.py", text) == wanted


def test_the_tests_mirror_the_source() -> None:
    """Each folder of tests is a room, or one of those that try several rooms at once."""
    across = {"contract", "oracle", "house", "torch_ways", "torture", "opinions", "examples", "tools"}
    tests = Path(__file__).resolve().parents[1]
    folders = {path.name for path in tests.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders - across <= {*ROOMS}
    sources = {path.stem for path in (ROOT / "ops").glob("*.py")}
    assert {path.stem.removeprefix("test_") for path in (tests / "ops").glob("test_*.py")} <= sources | {"example"}
    rules = {path.stem for path in (ROOT / "ops").glob("*.py")} & {path.stem for path in (ROOT / "memory").glob("*.py")}
    assert rules - {"__init__", "vector"} <= {path.stem.removeprefix("test_") for path in (tests / "ops").glob("test_*.py")}
