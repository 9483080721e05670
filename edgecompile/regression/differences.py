"""`edgecompile compare A B`: what differs between two bundles or artifacts, the largest effects first."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from edgecompile.decibels import sqnr_text
from edgecompile.printable import printable_lines
from edgecompile.text_table import render, table


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """The outputs of B's artifact beside A's, on the same inputs.

    Attributes:
        of: The format, and the output's name.
        sqnr_db: Of B beside A; None where all is equal.
        max_abs_difference: The largest one.
        agreement: The share of inputs, 0 to 1, with the same top-1; None for outputs without classes.
    """

    of: str
    sqnr_db: float | None
    max_abs_difference: float
    agreement: float | None


@dataclass(frozen=True, kw_only=True)
class LayerDifference:
    """A layer that is in A alone, in B alone, or not the same in both.

    Attributes:
        what: The number that differs most, or "only in A", "only in B".
        a, b: That number; None where there is none.
        effect_db: By how much, as a ratio in dB; None for a layer in one alone.
    """

    name: str
    kind: str
    where: str
    what: str
    a: float | None = None
    b: float | None = None
    effect_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class CountDifference:
    """An operator of one format with another number of calls, or an artifact of another size."""

    of: str
    name: str
    a: int
    b: int


@dataclass(frozen=True, kw_only=True)
class Differences:
    """All of them, each kind ordered by effect.

    Attributes:
        equal: Formats whose files are the same to the byte.
        first_layer: The first in the order of the graph that clearly differs; None where none does.
        notes: What could not be compared, and why.
    """

    a: str
    b: str
    equal: tuple[str, ...]
    first_layer: str | None
    outputs: tuple[OutputDifference, ...]
    layers: tuple[LayerDifference, ...]
    operators: tuple[CountDifference, ...]
    sizes: tuple[CountDifference, ...]
    notes: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether anything differs."""
        return bool(self.outputs or self.layers or self.operators or self.sizes)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return dataclasses.asdict(self)

    def text(self) -> str:
        """Return the tables for a terminal."""
        parts = [f"A: {self.a}\nB: {self.b}\n"]
        tables = (
            ("outputs of B beside A's, on A's goldens", self.outputs, self._output_table),
            ("layers", self.layers, self._layer_table),
            ("operators", self.operators, lambda: _count_table("operator", self.operators)),
            ("sizes in bytes", self.sizes, lambda: _count_table("part", self.sizes)),
        )
        for title, rows, fill in tables:
            parts += [title + "\n", render(fill())] if rows else []
        parts += [f"  the first layer that differs: {self.first_layer}"] if self.first_layer else []
        parts += [f"  .{name}: the same file" for name in self.equal]
        parts += [f"  {note}" for note in self.notes]
        return printable_lines("\n".join(parts if self.any else [*parts, "nothing differs"]))

    def _output_table(self) -> Table:
        filled = table("output", "SQNR dB", "max abs difference", "same top-1")
        for row in self.outputs:
            agreement = "-" if row.agreement is None else f"{row.agreement:.2%}"
            cells = (row.of, sqnr_text(row.sqnr_db), f"{row.max_abs_difference:.4g}", agreement)
            filled.add_row(*map(Text, cells))
        return filled

    def _layer_table(self) -> Table:
        filled = table("layer", "kind", "where", "what", "A", "B")
        for row in self.layers:
            numbers = ("-" if value is None else f"{value:.4g}" for value in (row.a, row.b))
            filled.add_row(*map(Text, (row.name, row.kind, row.where, row.what, *numbers)))
        return filled


def _count_table(name: str, rows: Sequence[CountDifference]) -> Table:
    filled = table("artifact", name, "A", "B", "B - A")
    for row in rows:
        change = f"{row.b - row.a:+d}" + (f" ({row.b / row.a - 1:+.1%})" if row.a else "")
        filled.add_row(*map(Text, (row.of, row.name, str(row.a), str(row.b), change)))
    return filled
