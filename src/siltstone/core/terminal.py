"""Output to a terminal, a pipe or a file: escapes control characters, writes whole lines, handles streams that fail."""

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

LONGEST, END = 1500, 400  # maximum characters of a message, and of its end, which has the mend
WIDE = 1 << 16  # columns if the output is not a terminal
# Control characters except line ends and tabs, line and paragraph separators, text direction marks, invisible ones, surrogates.
_HARMFUL = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]|\r(?!\n)"
)


def escaped(text: str) -> str:
    """`text` with escapes for every character that controls a terminal or hides other characters: ESC becomes \\x1b."""
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def shown(text: str, out: TextIO) -> str:
    """`text`, escaped if `out` is a terminal; unchanged for a file or a pipe."""
    return escaped(text) if out.isatty() else text


def say(message: str) -> None:
    """Prints one line on standard error, after the program's name: escaped, and shortened in the middle if it is very long."""
    line = escaped(" ".join(message.split()))
    if len(line) > LONGEST:
        line = f"{line[: LONGEST - END]} [...] {line[-END:]}"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"siltstone: {line}\n")
        sys.stderr.flush()


class Careful:
    """A text stream of the process. After the first failed write, all output to it is dropped.

    tells   whether the first failure raises OutputError: True for standard output; False for standard error, so that work
            continues if nobody reads its progress
    """

    def __init__(self, stream: TextIO, tells: bool) -> None:
        self._stream, self._tells, self._gone = stream, tells, False

    def write(self, text: str) -> int:
        """See TextIO."""
        if text != "":  # some libraries write "" to test the type of stream
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
            if self._blocked():  # nobody reads: buffered text would block the end of the process
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
    found = OutputError(f"standard output cannot be written: {error.strerror or error}; redirect it to another place")
    found.closed = error.errno == errno.EPIPE
    return found


@contextmanager
def careful_streams() -> Iterator[None]:
    """Makes the standard streams of the process safe for the block: characters that the encoding lacks are escaped; a stream
    that the caller closed becomes /dev/null, so that no file that is opened later gets its descriptor; all streams block; for
    failed writes see `Careful`."""
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
        with contextlib.suppress(OSError, ValueError):  # a non-blocking stream would report a pause as its end or as an error
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
    """A rich console on standard output or error. If it is not a terminal, lines are neither cut nor wrapped."""
    from rich.console import Console

    file: Any = out if isinstance(out, Careful) else Careful(out, tells=out is sys.stdout)
    terminal = out.isatty()
    return Console(file=file, quiet=quiet, highlight=False, force_terminal=terminal, width=None if terminal else WIDE)
