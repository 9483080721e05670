"""Shows progress on stderr: a bar on a terminal, a line for each finished stage elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgecompile.progress import Progress

if TYPE_CHECKING:
    import rich.progress


def _line(stage: str, seconds: float, detail: str) -> str:
    return f"{stage} … {seconds:.1f} s" + (f"  {detail}" if detail else "")


class PlainProgress:
    """One line on stderr for each stage when it ends: for logs."""

    def __init__(self) -> None:
        self._stage, self._started = "", 0.0

    def start(self, stage: str, total: int | None = None) -> None:
        """Remember the stage and the time."""
        self._stage, self._started = stage, time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Do nothing: a log needs no steps."""

    def finish(self, detail: str = "") -> None:
        """Print the stage's line."""
        click.echo(_line(self._stage, time.monotonic() - self._started, detail), err=True)

    def note(self, text: str) -> None:
        """Print a line of its own."""
        click.echo(f"note: {text}", err=True)


class TerminalProgress:
    """A bar, or a spinner where the length is unknown, that becomes the stage's line when it ends."""

    def __init__(self, bars: rich.progress.Progress) -> None:
        self._bars = bars
        self._stage, self._started = "", 0.0
        self._task: rich.progress.TaskID | None = None

    def start(self, stage: str, total: int | None = None) -> None:
        """Show the stage's bar."""
        self._clear()
        self._stage, self._started = stage, time.monotonic()
        self._task = self._bars.add_task(stage, total=total)

    def advance(self, count: int = 1) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bars.advance(self._task, count)

    def finish(self, detail: str = "") -> None:
        """Put the stage's line where the bar was."""
        self._clear()
        line = _line(self._stage, time.monotonic() - self._started, detail)
        self._bars.console.print(line, markup=False, highlight=False)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._bars.console.print(f"note: {text}", markup=False, highlight=False)

    def _clear(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Give the progress that fits stderr; the terminal is restored whatever happens."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    # A handle of its own: the bar moves on while an engine's native output is kept from stderr. And
    # stdout is the result's: rich must not reroute it to the terminal.
    with os.fdopen(os.dup(sys.stderr.fileno()), "w") as screen:
        console = Console(file=screen)
        with Bars(*columns, console=console, transient=True, redirect_stdout=False) as bars:
            yield TerminalProgress(bars)
