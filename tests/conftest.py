"""What all tests share: one thread each, so that two workers do not fight over two cores, and the same random numbers."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

# Signals that whoever started the tests ignores (nohup, a job in the background) are not ignored in them.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (getattr(signal, "SIGHUP", signal.SIGTERM), signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

TOOLS = str(Path(__file__).resolve().parent.parent / "tools")


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
