"""Prints results on stdout: JSON documents and tables."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from edgecompile.errors import OutputNotWritableError


def print_json(document: Any) -> None:
    """Print one JSON document; paths and the like become text."""
    click.echo(json.dumps(document, indent=2, default=str))


def write_json(path: Path, document: Any) -> None:
    """Write one JSON document to a file, aside and renamed.

    Raises:
        OutputNotWritableError: The file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        try:
            aside.write_text(json.dumps(document) + "\n")
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise OutputNotWritableError(
            f"the file cannot be written: {error.strerror or error}", where=str(path)
        ) from error


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; a pipe or file gets full lines instead of ones cut to a screen."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a "[...]" in a cell is no markup
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    with console.capture() as captured:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def terminal_width() -> int:
    """Return the columns of the terminal on stdout; those of a report where it is none."""
    from edgecompile.text_table import WIDTH

    return shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH
