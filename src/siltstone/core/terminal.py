"""What reaches a terminal, a pipe or a file: text that commands nothing, lines that are whole, streams that may fail."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import OutputError
from .interrupt import ForcedStop

if TYPE_CHECKING:
    from rich.console import Console

LONGEST, END = 1500, 400  # characters of a message, and of its end, which names the mend
WIDE = 1 << 16  # columns of what is no terminal
# Control characters but line ends and tabs, line and paragraph separators, changes of direction, what is invisible, surrogates.
_HARMFUL = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]|\r(?!\n)"
)


def escaped(text: str) -> str:
    """`text` with every character that a terminal would obey, or that would hide others, as its escape: ESC is \\x1b."""
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(text: str, out: TextIO) -> str:
    """`text`, escaped where `out` is a terminal: a file or a pipe gets it as it is."""
    return escaped(text) if out.isatty() else text


def say(message: str) -> None:
    """One line on standard error, behind the program's name: escaped, and cut in its middle where it is very long."""
    line = escaped(" ".join(message.split()))
    if len(line) > LONGEST:
        line = f"{line[: LONGEST - END]} [...] {line[-END:]}"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"siltstone: {line}\n")
        sys.stderr.flush()


class Careful:
    """A text stream of the process. Once it cannot be written it is silent; of standard output OutputError tells, once.

    That of standard error is swallowed, since no work shall end for want of someone who reads its progress.
    """

    def __init__(self, stream: TextIO, tells: bool) -> None:
        self._stream, self._tells, self._gone = stream, tells, False

    def write(self, text: str) -> int:
        """See TextIO."""
        if text != "":  # which some write in order to see what kind of stream this is
            self._do(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """See TextIO."""
        self._do(self._stream.flush)

    def _do(self, act: Callable[..., Any], *given: str) -> None:
        if self._gone:
            return
        try:
            act(*given)
        except OSError as error:
            self._abandon()
            if self._tells:
                raise _told(error) from None
        except (KeyboardInterrupt, ForcedStop):
            if self._blocked():  # nobody reads on: what is left would hold up the end of the process too
                self._abandon()
            raise

    def _blocked(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return not select.select([], [self._stream.fileno()], [], 0)[1]
        return False

    def _abandon(self) -> None:
        self._gone = True
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _told(error: OSError) -> OutputError:
    found = OutputError(f"standard output cannot be written: {error.strerror or error}; send it to another place")
    found.closed = error.errno == errno.EPIPE
    return found


@contextmanager
def careful_streams() -> Iterator[None]:
    """Standard streams of a process for the block: none fails for a character that its encoding lacks, one that was closed
    by the caller is /dev/null (and no file that is opened later can take its place), all wait for whoever is at their other
    end, and see `Careful`."""
    if isinstance(sys.stdout, Careful):
        yield
        return
    before = sys.stdin, sys.stdout, sys.stderr
    if None in before:
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(handle)
    null = contextlib.ExitStack()
    for name, given, mode in zip(("stdin", "stdout", "stderr"), before, "rww", strict=True):
        stream: Any = null.enter_context(open(os.devnull, mode, encoding="utf-8")) if given is None else given
        with contextlib.suppress(OSError, ValueError):  # else a pause would be taken for the end, or for a failure
            os.set_blocking(stream.fileno(), True)
        if name != "stdin":
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
            stream = Careful(stream, tells=name == "stdout")
        setattr(sys, name, stream)
    try:
        with null:
            yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def console(out: TextIO, quiet: bool = False) -> Console:
    """A rich console on standard output or error. Where that is no terminal, lines are neither cut nor wrapped."""
    from rich.console import Console

    file: Any = out if isinstance(out, Careful) else Careful(out, tells=out is sys.stdout)
    terminal = out.isatty()
    return Console(file=file, quiet=quiet, highlight=False, force_terminal=terminal, width=None if terminal else WIDE)
