"""A table with a column for each artifact or bundle, before a template lays it out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecompile.report_page.shown import NONE


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number.

    Attributes:
        beside: What stands below it: its unit's share, or a ratio.
    """

    text: str = NONE
    beside: str = ""


UNKNOWN = Cell()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measure, and its number in each column."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """The table; a row in which nothing is known is left out.

    Attributes:
        heads: Of the first column, and of the others.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]


def row(name: str, cells: Sequence[Cell]) -> list[Row]:
    """Return the row, or none where no cell says anything."""
    return [Row(name=name, cells=tuple(cells))] if any(cell.text != NONE for cell in cells) else []
