"""What `siltstone stream` prints: the bits per byte while it reads, and the receipt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siltstone.inference.reader import Cost, Reader
    from siltstone.inference.receipt import Receipt


def print_receipt(found: Receipt, as_json: bool, out: Any, more: dict[str, Any] | None = None) -> None:
    """The receipt for people on `out`, and as JSON with `more` if asked for."""
    from siltstone.core.machine import threads_said
    from siltstone.core.plain import json_line

    for name, value in [*found.rows(), ("threads", threads_said())]:
        print(f"{name:<12} {value}", file=out)
    if as_json:
        print(json_line((more or {}) | found.to_dict() | {"threads": threads_said()}), flush=True)


def print_usage(rows: Sequence[tuple[str, str]], found: dict[str, Any] | None) -> None:
    """A receipt for people on standard error, and as JSON on standard output if given."""
    from siltstone.core.plain import json_line

    print("".join(f"{name:<12} {value}\n" for name, value in rows), end="", file=sys.stderr, flush=True)
    if found is not None:
        print(json_line(found), flush=True)


class Progress:
    """Prints bits per byte while the stream is read: on a terminal one live line, otherwise a line every `report` tokens (on
    standard error if standard output is for JSON). With `lines`, each line is printed after its bits per byte, or as JSON.
    name: that of the stream, if there are several; then nothing is live."""

    def __init__(self, report: int, lines: bool, size: int | None, as_json: bool, name: str | None = None) -> None:
        from siltstone.inference.reader import Cost

        self.report, self.lines, self.size, self.as_json = report, lines, size, as_json
        self.none, self.name = Cost(), name
        self.line, self.text, self.end, self.at, self.cut = self.none, "", "", 0, False
        self.recent = self.last = self.none
        self.live: Any = None

    def __enter__(self) -> Progress:
        if sys.stdout.isatty() and not self.lines and not self.as_json and self.name is None:
            from rich.live import Live

            from siltstone.core.terminal import console

            self.live = Live(console=console(sys.stdout), refresh_per_second=8, redirect_stdout=False, redirect_stderr=False)
            self.live.start()
        return self

    def __exit__(self, failed: Any, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
        elif self.line.tokens and not failed:
            self._line()

    def show(self, reader: Reader, piece: bytes, cost: Cost) -> None:
        """One more piece was read."""
        if self.lines:
            if not self.line.tokens:  # only the first piece of a long line is shown
                self.text, self.at = piece.decode("utf-8", "replace").rstrip("\r\n"), reader.offset - len(piece)
                self.end = "" if piece.endswith(b"\n") else "…"
            self.cut = self.line.tokens > 0
            self.line += cost
            if piece.endswith(b"\n"):
                self._line()
            return
        self.recent += cost
        full = self.recent.tokens >= self.report
        if full:
            self.last, self.recent = self.recent, self.none
        if self.live is not None:
            from rich.text import Text

            self.live.update(Text(self._text(reader), no_wrap=True, overflow="ellipsis"))
        elif full:
            print(self._text(reader), file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def _line(self) -> None:
        from siltstone.core.plain import json_line
        from siltstone.core.terminal import shown

        bits = self.line.bits_per_byte
        if self.as_json:
            found = {"bits_per_byte": bits, "text": self.text, "cut": self.cut, "offset": self.at, "bytes": self.line.bytes}
            found |= {"replaced": self.line.replaced} | ({} if self.name is None else {"file": self.name})
            print(json_line(found), flush=True)
        else:
            name = "" if self.name is None else f"{shown(self.name, sys.stdout)}\t"
            print(f"{name}{bits:.3f}\t{shown(self.text, sys.stdout)}{self.end}", flush=True)
        self.line = self.none

    def _text(self, reader: Reader) -> str:
        from siltstone.inference.receipt import human

        share = f" ({reader.offset / self.size:.0%})" if self.size else ""
        newest = self.last if self.last.tokens else self.recent
        ms = reader.timeline.ms_per_token(last=True) or 0.0
        name = "" if self.name is None else f"{self.name}: "
        bits = f"{reader.cost.bits_per_byte:.4f} bits per byte (newest {newest.bits_per_byte:.4f})"
        return f"{name}byte {reader.offset:,}{share}  {bits}  {ms:.3f} ms a token  session {human(reader.session.nbytes)}"
