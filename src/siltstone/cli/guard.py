"""Turns the errors of every command into one line and an exit code."""

from __future__ import annotations

import functools
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from ..core.interrupt import ForcedStop, Interrupts, exit_code, shielded, stopping
from ..core.terminal import careful_streams, say
from ..errors import OutputError, RenamedKeyWarning, SiltstoneError

ERROR, CLOSED = 2, 141  # 141: the reader of standard output closed it
OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory|Storage size calculation overflowed|bad_alloc|bad allocation")
debug = False  # --debug was given: errors are shown with their trace
_held = ExitStack()  # contexts that are left when the command ends


@contextmanager
def guard() -> Iterator[None]:
    """Turns errors in the block into one line on standard error and SystemExit; errors of the program itself are raised.

    Exit codes: 2 for an error that a user can cause, 128 + its number for a signal (SIGINT 130, SIGTERM 143, SIGHUP 129), 141
    without a message if the reader of standard output closed it.
    """
    with careful_streams(), stopping() as stop:
        try:
            try:
                yield
            except SystemExit as ended:
                if not ended.code:
                    sys.stdout.flush()
                raise
            sys.stdout.flush()
        except (KeyboardInterrupt, ForcedStop) as error:
            if debug:
                raise
            say("interrupted")
            raise SystemExit(exit_code(error)) from None
        except Exception as error:
            found = _ending(error, stop)
            if found is None or debug:
                raise
            code, said = found
            if said:
                say(said)
            raise SystemExit(code) from None


def _ending(error: Exception, stop: Interrupts) -> tuple[int, str] | None:
    """Exit code and message for an error that a user can cause; None for an error of the program itself."""
    if isinstance(error, OutputError) and stop.number is not None:
        return exit_code(stop), "interrupted"
    if isinstance(error, OutputError) and error.closed:
        return CLOSED, ""
    if isinstance(error, OSError) and not isinstance(error, SiltstoneError):
        where = f"{error.filename}: " if error.filename else ""
        return ERROR, f"error: {where}{error.strerror or error}"
    if isinstance(error, SiltstoneError):
        return ERROR, f"error: {error}"
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)):
        return ERROR, "error: out of memory; make the model, its window or the batch smaller"
    if isinstance(error, UnicodeEncodeError):
        text = error.object[max(0, error.start - 40) : error.end + 40]
        return ERROR, f"error: {text!r} is not valid Unicode text; give names and texts that UTF-8 can encode"
    if stop.number is not None and not hasattr(error, "exit_code"):  # interrupted code may raise any other error
        return exit_code(stop), "interrupted"
    return None


def guarded(command: Callable[..., Any]) -> Callable[..., None]:
    """`command` under `guard`. torch is imported first, with signals delayed: the import could swallow the exception.

    Each warning of Siltstone is one line on standard error.
    """

    @functools.wraps(command)
    def run(*args: Any, **keys: Any) -> None:
        global _held
        with guard(), ExitStack() as _held, warnings.catch_warnings():
            with shielded():
                import torch  # noqa: F401
            warnings.simplefilter("default", RenamedKeyWarning)
            usual = warnings.showwarning
            warnings.showwarning = functools.partial(_warn, usual)
            command(*args, **keys)

    return run


def hold(context: AbstractContextManager[Any]) -> None:
    """Enters `context` and leaves it when the command ends, also after an error."""
    _held.enter_context(context)


def _warn(usual: Callable[..., None], message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    if category.__module__.startswith("siltstone.") or category is UserWarning:
        say(f"warning: {message}")
    else:
        usual(message, category, *where, **more)
