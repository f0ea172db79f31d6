"""Calls that a reader can follow: few arguments by position, and nobody asks what kind of bank or state a thing is."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import siltstone
from siltstone.state.tree import State

ROOT = Path(siltstone.__file__).parent
MOST = 7
TREES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def many(tree: ast.AST) -> list[int]:
    """Lines of calls with too many arguments by position; one with a star counts for two."""
    return [c.lineno for c in calls(tree) if sum(1 + isinstance(x, ast.Starred) for x in c.args) > MOST]


def states() -> dict[str, str]:
    """The room of every class of states."""
    for info in pkgutil.walk_packages(siltstone.__path__, "siltstone."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    found, left = {}, [State]
    while left:
        cls = left.pop()
        left += cls.__subclasses__()
        if cls.__module__.startswith("siltstone."):
            found[cls.__name__] = cls.__module__.split(".")[1]
    return found


def asked(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of what `isinstance` compares with."""
    for call in calls(tree):
        if isinstance(call.func, ast.Name) and call.func.id == "isinstance":
            names = [node for node in ast.walk(call.args[1]) if isinstance(node, ast.Name | ast.Attribute)]
            yield from ((call.lineno, node.id if isinstance(node, ast.Name) else node.attr) for node in names)


def test_no_call_has_many_arguments_by_position() -> None:
    assert not [f"{path}:{line}" for path, tree in TREES.items() for line in many(tree)]
    assert many(ast.parse("f(1, 2, 3, 4, 5, 6, 7, 8)\nf(1, 2, 3, 4, 5, 6, *x)\nf(1, 2, 3, 4, 5, 6, 7, a=8)")) == [1, 2]


def test_only_their_room_asks_for_kinds_of_states() -> None:
    room = states()
    assert {"ConstantBank", "LogarithmicBank", "BudgetBank", "LayerState", "MatrixState"} <= room.keys()
    found = [
        f"{path}:{line} asks for {name}"
        for path, tree in TREES.items()
        for line, name in asked(tree)
        if name in room and path.relative_to(ROOT).parts[0] != room[name]
    ]
    assert not found
    assert {(1, "Bank"), (1, "State")} <= set(asked(ast.parse("isinstance(x, Bank | tree.State)")))
