"""The live panel of a demonstration: a rich table on a terminal, otherwise plain lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..core import terminal
from ..inference.receipt import human
from .record import Record, Trace

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: list[float], width: int = 32, low: float | None = None, high: float | None = None) -> str:
    """A series of values as at most `width` block characters, each for the mean of an equal share of the values."""
    if not values:
        return ""
    n = min(width, len(values))
    means = []
    for i in range(n):
        part = values[i * len(values) // n : (i + 1) * len(values) // n]
        means.append(sum(part) / len(part))
    low, high = min(means) if low is None else low, max(means) if high is None else high
    span = (high - low) or 1.0
    return "".join(_BARS[round(min(1.0, max(0.0, (v - low) / span)) * (len(_BARS) - 1))] for v in means)


class Panel:
    """Shows a `Record` during the reading: `with Panel(record, total) as panel: ...; panel.show()`."""

    def __init__(self, record: Record, total: int, console: Console | None = None) -> None:
        self.record, self.total = record, total
        self.console = console or terminal.console(sys.stdout)
        self.started = time.perf_counter()
        self.live = Live(console=self.console, refresh_per_second=4, transient=False) if self.console.is_terminal else None
        self._next_line = 0.0
        self._spark = min(28, max(4, (self.console.width - 76) // 2))  # width of a sparkline

    def __enter__(self) -> Panel:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)

    def say(self, line: str) -> None:
        """Prints one line of plain text above the panel."""
        self.console.print(terminal.escaped(line), markup=False, highlight=False, soft_wrap=True)

    def show(self, last: bool = False) -> None:
        """Shows the current record; without a terminal, prints a line after every twentieth of the text."""
        reader = self.record.reader
        if not reader.position:
            return
        if self.live:
            self.live.update(self._table())
        elif last or reader.position[-1] >= self._next_line:
            self._next_line = reader.position[-1] + self.total / 20
            self.say(self._line())

    def _line(self) -> str:
        reader, other = self.record.reader, self.record.transformer
        parts = [
            f"{reader.position[-1]:>9,} tokens",
            f"{_recent(reader):.3f} ms a token",
            human(reader.bytes[-1]),
            f"{self.record.bits:.3f} bits per byte",
        ]
        if other.position:
            parts.append(
                f"| transformer: {other.position[-1]:,} tokens  {_recent(other):.3f} ms a token  {human(other.bytes[-1])}"
            )
        return "  ".join(parts)

    def _table(self) -> Group:
        reader, other = self.record.reader, self.record.transformer
        seconds = int(time.perf_counter() - self.started)
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.total, completed=reader.position[-1], width=28)
        head.add_row(
            Text("reading", style="bold"),
            bar,
            f"{reader.position[-1]:,} / {self.total:,} tokens",
            f"{seconds // 60}:{seconds % 60:02d}",
        )
        table = Table(box=None, padding=(0, 2), header_style="bold")
        table.add_column("")
        table.add_column("Siltstone", justify="right", style="cyan")
        table.add_column("", style="cyan")
        table.add_column("transformer", justify="right", style="yellow")
        table.add_column("", style="yellow")
        top = max([*reader.ms, *other.ms])
        stopped = f"{other.position[-1]:,}" if other.position else ""
        table.add_row("position", f"{reader.position[-1]:,}", "", stopped, "")
        table.add_row(
            "ms a token",
            f"{_recent(reader):.3f}",
            sparkline(reader.ms, self._spark, 0, top),
            _two(other),
            sparkline(other.ms, self._spark, 0, top),
        )
        table.add_row("memory", human(reader.bytes[-1]), "", human(other.bytes[-1]) if other.bytes else "", "")
        bits = Text("random weights", style="dim")
        table.add_row("bits per byte", f"{self.record.bits:.3f}", sparkline(reader.bits, self._spark), bits, "")
        return Group(head, Text(), table)


def _recent(trace: Trace) -> float:
    near = trace.ms[-5:]
    return sorted(near)[len(near) // 2]


def _two(trace: Trace) -> str:
    return f"{_recent(trace):.3f}" if trace.ms else ""
