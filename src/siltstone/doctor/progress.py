"""Progress of an examination on standard error: a live bar on a terminal, otherwise a line for each part."""

from __future__ import annotations

import sys

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..core.terminal import console


class Steps:
    """`with Steps(quiet) as steps: steps.begin("gates", 100); steps.tick()`."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = console(sys.stderr, quiet)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Steps:
        if self._console.is_terminal and not self._console.quiet:
            columns = TextColumn("{task.description}"), BarColumn(24), TimeRemainingColumn(compact=True)
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, part: str, steps: int) -> None:
        """Begins the next part, with `steps` steps."""
        if self._bar is None:
            self._console.print(part, markup=False, soft_wrap=True)
            return
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(part, total=steps)

    def tick(self) -> None:
        """One step of the part is done."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)
