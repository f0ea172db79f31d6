"""What all tests share: one thread each, so that two workers do not fight over two cores, and the same random numbers."""

from __future__ import annotations

import gc
import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests import naming

# Signals that whoever started the tests ignores (nohup, a job in the background) are not ignored in them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

TOOLS = str(Path(__file__).resolve().parent.parent / "tools")


def pytest_configure(config: pytest.Config) -> None:
    for rule in naming.RULES:
        config.addinivalue_line("markers", f"{rule}: everything that tries the update rule {rule}")
    config.addinivalue_line("markers", "apart: documents, pictures, timing of commands, shape of the source")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    return naming.short(val)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m gated_delta` is all of one rule; `-m "not apart"` is the code alone.

    Long tests come first: at the end of a run both workers have short ones left.
    """
    for item in items:
        for rule in naming.rules(item):
            item.add_marker(rule)
        if item.path.relative_to(item.config.rootpath / "tests").parts[0] in naming.APART:
            item.add_marker("apart")
    items.sort(key=lambda item: item.path.relative_to(item.config.rootpath / "tests").parts[0] not in naming.LONG)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Thousands of tests and the modules they import stay: the garbage collector need not look at them, and less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test that fails on one draw in three fails always, or never."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def tool() -> Iterator[Callable[[str], ModuleType]]:
    """Gives a module of tools/ by its name, as `python tools/...` would find it."""
    before = set(sys.modules)
    sys.path.insert(0, TOOLS)
    yield importlib.import_module
    sys.path.remove(TOOLS)
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(TOOLS):
            del sys.modules[name]
