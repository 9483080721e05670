"""Tables as plain text of a fixed width, for reports that are files as well."""

from __future__ import annotations

import io

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 110


def table(*columns: str) -> Table:
    """Return an empty table."""
    empty = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        empty.add_column(column, overflow="fold")
    return empty


def plain_console(file: io.StringIO, width: int = WIDTH) -> Console:
    """Return what prints text without colours into a file, so many columns wide."""
    return Console(file=file, width=width, color_system=None, highlight=False, emoji=False)


def render(filled: Table) -> str:
    """Return a table's text."""
    file = io.StringIO()
    plain_console(file).print(filled)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"
