"""The output of a run: a progress bar (or plain lines), `metrics.jsonl`, and the receipt at the end."""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from ..core.terminal import console, escaped
from ..core.words import counted
from ..errors import FormatWarning
from ..io import checked_line, read_lines, write_text
from ..io.atomic import storage_errors
from ..io.parse import is_count
from ..io.place import find_file
from .sinks import Sink

NOT_VALIDATED: dict[str, Any] = {"step": -1, "valid_bits_per_byte": None, "valid_bytes": None}
_RECENT = 50
_PAUSE = 10.0


class Metrics:
    """`metrics.jsonl`: a line for each step and each validation.

    valid    the record of the last validation, NOT_VALIDATED before the first one
    step     last step that is kept: later lines, and an incomplete last line, are removed when a run resumes
    sinks    further places that get every new record; they are closed with the file
    """

    def __init__(self, path: Path, step: int, sinks: Sequence[Sink] = ()) -> None:
        self._path, self._step, self._sinks = path, 0, sinks
        self._last: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self.valid = NOT_VALIDATED
        kept, lost = [], 0
        with storage_errors(path):
            there = find_file(path).found is not None  # a pipe is refused: reading it would block
            text = path.read_text("utf-8", errors="replace") if there else ""
        records, whole = read_lines(text), text.endswith("\n")
        for number, record in enumerate(records):
            if record is None or not _fits(record):
                lost += whole or number < len(records) - 1  # the last line may be incomplete
            elif record["step"] <= step:
                kept.append(checked_line(record))
                self._remember(record)
        if lost:
            warnings.warn(f"{path} has {counted(lost, 'line')} that were altered; they are left out", FormatWarning, stacklevel=2)
        write_text(path, "".join(kept))
        with storage_errors(path):
            self._file: IO[str] = open(path, "a", encoding="utf-8")

    def _remember(self, record: dict[str, Any]) -> None:
        if "loss" in record:
            self._last.append((record["bits_per_byte"] * record["bytes"], record["bytes"]))
            self._step = record["step"]
        elif "valid_bits_per_byte" in record:
            self.valid = record

    @property
    def recent(self) -> list[tuple[float, float]]:
        """Bits and bytes of the last tenth of the steps, at least 1 and at most 50 steps."""
        return list(self._last)[-max(1, self._step // 10) :]

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte over the training steps of `recent`."""
        return sum(b for b, _ in self.recent) / max(1, sum(n for _, n in self.recent))

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record. Raises StorageError."""
        self._remember(record)
        with storage_errors(self._path):
            self._file.write(checked_line(record))
            self._file.flush()
        for sink in self._sinks:
            sink.write(record)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        for sink in self._sinks:
            sink.close()


def _fits(record: dict[str, Any]) -> bool:
    """Whether a record is a valid record of a step or of a validation."""
    figures = ["bits_per_byte", "bytes"] if "loss" in record else []
    return is_count(record.get("step")) and all(type(record.get(name)) in (int, float) for name in figures)


def last_step(path: Path) -> int:
    """The last step in `metrics.jsonl`; 0 if there is none."""
    try:
        records = read_lines(path.read_text("utf-8", errors="replace"))
    except OSError:
        return 0
    return max((record["step"] for record in records if record is not None and _fits(record)), default=0)


class Display:
    """Progress on the screen: a live bar on a terminal, otherwise a line every ten seconds; nothing if quiet.

    end   the number of steps of the run; None: its end depends on the time
    name  of the run, if several are trained one after the other
    """

    def __init__(self, quiet: bool = False, end: int | None = None, name: str = "") -> None:
        self.end, self.name = end, name
        self._console = console(sys.stderr, quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._said = time.monotonic()

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self._console.quiet:
            text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
            self._bar = Progress(
                BarColumn(10), TimeRemainingColumn(compact=True), TextColumn("left"), text, console=self._console
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints one line."""
        self._console.print(escaped(text), markup=False, soft_wrap=True)

    def show(self, fraction: float, record: dict[str, Any], bits_per_byte: float) -> None:
        """Shows the figures of a step. One that read no text (`Recipe.copying`) has no bits per byte."""
        text = f"{self.name}  " if self.name else ""
        text += f"step {record['step']:,}{f' of {self.end:,}' if self.end else ''}  loss {record['loss']:.3f} nats a token  "
        if record.get("bytes") == 0:
            text += f"of repeated strings, no text yet  {record['tokens_per_s']:,.0f} tokens/s"
        else:
            text += f"train {bits_per_byte:.3f} bits/byte  {record['tokens_per_s']:,.0f} tokens/s  "
            text += f"state {size(record['state_bytes'])} a row"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=min(1.0, fraction), description=text)
        elif time.monotonic() - self._said > _PAUSE:
            self._said = time.monotonic()
            self.say(f"{100 * min(1.0, fraction):3.0f}%  {text}")


def size(count: float) -> str:
    """Bytes for people: `1.5 MB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def _span(positions: list[int]) -> str:
    low, high = positions
    return counted(high, "token") if low == high else f"{low:,} to {high:,} tokens"


def receipt_lines(receipt: dict[str, Any], threads: str | None = None) -> list[str]:
    """The receipt as lines for the screen. threads: text about threads, added as a line of its own."""
    valid = receipt["valid_bits_per_byte"]
    lines = [
        f"steps           {receipt['steps']:,} ({receipt['epochs']:.2f} times through {size(receipt['train_bytes'])} of text)",
        f"tokens          {receipt['tokens']:,} in {receipt['seconds']:,.0f} s"
        + (f": {receipt['tokens_per_s']:,.0f} tokens/s" if receipt["tokens_per_s"] else ""),
        f"model           {receipt['parameters']:,} parameters, {receipt['precision']} on {receipt['device']}, "
        f"{counted(receipt['threads'], 'thread')}",
        f"bits per byte   {receipt['train_bits_per_byte']:.4f} over the last "
        + counted(receipt["recent_steps"], "step")
        + (f", {valid:.4f} held out" if valid is not None else "; nothing was held out (--valid)"),
        f"state           {size(receipt['state_bytes'])} a row, after {_span(receipt['state_positions'])}",
        *([f"threads         {threads}"] if threads else []),
        f"fingerprint     {receipt['fingerprint']}",
        f"saved           {receipt['folder']}",
    ]
    return lines
